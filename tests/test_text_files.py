"""Sources that read files of your own: books, text, JSONL, Parquet."""

import gzip
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus.records import Document, Tally, document_writer, read_documents
from stages.corpus.sources import files, reader_of, text, wraps
from stages.corpus.sources.bookcorpus import _pieces
from stages.corpus.sources.chapters import Headings
from stages.corpus.sources.wraps import layout_of, paragraphs
from stages.errors import DataError
from stages.params import BookcorpusSource, BooksSource, JsonlSource, ParquetSource, TextSource

SETTINGS = {
    "books": BooksSource,
    "text": TextSource,
    "jsonl": JsonlSource,
    "parquet": ParquetSource,
}
SENTENCES = (
    "It was a day like all others, and nobody in the house had thought that the road would bring a "
    "guest before the evening came. The old man sat at his window, and he looked at the hills. "
)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "workspace"
    (folder / "raw").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def read(kind: str, pattern: str = "raw/*", **more: object) -> tuple[list[Document], Tally]:
    settings = SETTINGS[kind].model_validate({"kind": kind, "files": [pattern], **more})
    tally = Tally()
    found = list(reader_of(kind)("mine", settings, str, tally))
    assert tally.num_read == len(found) + tally.documents.counts.total()
    assert len({document.id for document in found}) == len(found)
    return found, tally


# ------------------------------------------------------------------------------- which files


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_pattern_that_matches_nothing_is_a_mistake(kind):
    with pytest.raises(DataError, match=r"corpus\.sources\.mine\.files: no file matches 'raw/\*'"):
        read(kind)


@pytest.mark.parametrize("how", ["dots", "absolute", "link"])
def test_a_path_outside_of_the_workspace_is_refused(workspace, how):
    secret = workspace.parent / "secret.txt"
    secret.write_text("Not for the corpus.")
    pattern = {"dots": "raw/../../secret.txt", "absolute": str(secret), "link": "raw/*"}[how]
    if how == "link":
        (workspace / "raw" / "innocent.txt").symlink_to(secret)
    with pytest.raises(DataError, match=r"leads to .*secret\.txt, outside of the workspace"):
        read("text", pattern)
    found, _ = read("text", pattern, outside_workspace=True)
    assert [document.text for document in found] == ["Not for the corpus."]


def test_an_empty_file_is_reported_and_skipped(workspace):
    (workspace / "raw" / "empty.txt").touch()
    with pytest.raises(DataError, match=r"every file that matches is empty .*raw/empty\.txt"):
        read("text")
    (workspace / "raw" / "full.txt").write_text("Something.")
    found, tally = read("text")
    assert [document.id for document in found] == ["mine:raw/full.txt#1"]
    assert tally.warnings == ["raw/empty.txt is empty; it was skipped"]


@pytest.mark.parametrize("pattern", ["", "/", "raw/**.txt"])
def test_what_is_no_pattern_is_a_mistake_in_the_settings(pattern):
    with pytest.raises(ValueError, match=r"names no file|\*\* stands for folders"):
        read("text", pattern)


def test_what_utf8_may_not_hold_is_written_all_the_same(workspace, tmp_path):
    for name in (b"caf\xe9.txt", b"caf\xe8.txt"):
        Path(os.fsdecode(bytes(workspace / "raw") + b"/" + name)).write_text("Something.")
    found, _ = read("text")
    with document_writer(tmp_path / "documents.parquet") as writer:
        for document in [*found, Document("b", "mine", "\ud800", "Lone \ud800 surrogate.")]:
            writer.write(document)
    written = list(read_documents(tmp_path / "documents.parquet"))
    assert len({document.id for document in written}) == 3
    assert (written[2].title, written[2].text) == ("?", "Lone ? surrogate.")


# ------------------------------------------------------------------------------- plain text


def test_text_in_utf16_is_read_and_what_is_no_text_is_not(workspace):
    text = "One \u201ctwo\u201d.\n\nThree."
    (workspace / "raw" / "a.txt").write_text(text, encoding="utf-16")
    (workspace / "raw" / "b.txt.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (workspace / "raw" / "c.txt").write_text(text, encoding="utf-16-le")
    (workspace / "raw" / "d.txt").write_text("One NUL\0 among letters.")
    found, tally = read("text")
    assert [document.text for document in found] == [text, "One NUL\0 among letters."]
    for name, warning in zip(("b.txt.gz", "c.txt"), tally.warnings[::2], strict=True):
        assert warning.startswith(f"raw/{name} is no text: it holds NUL bytes")


def test_text_is_a_document_a_file_or_a_paragraph(workspace, monkeypatch):
    (workspace / "raw" / "a.txt").write_bytes("\ufeffOne\r\ntwo.\r\n\r\nThree.\r\n".encode())
    (workspace / "raw" / "b.txt").write_bytes(b"Caf\xe9 \x93quoted\x94.")
    found, tally = read("text")
    assert [document.text for document in found] == [
        "One two.\n\nThree.",
        "Caf\u00e9 \u201cquoted\u201d.",
    ]
    assert tally.warnings == ["raw/b.txt: 3 bytes are not UTF-8; they were read as Windows-1252"]
    found, _ = read("text", documents="paragraphs", max_documents=2)
    assert [document.text for document in found] == ["One two.", "Three."]
    monkeypatch.setattr(text, "MAX_DOCUMENT_CHARACTERS", 12)
    found, _ = read("text", max_documents=2)
    assert [document.text for document in found] == ["One two.", "Three."]


def wrap(text: str, width: int = 70) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width)


def test_paragraphs_are_found_in_every_layout():
    texts = [(SENTENCES * (1 + i % 3) + "So it was.").strip() for i in range(20)]
    wrapped = [wrap(text) for text in texts]
    assert all(len(lines[-1]) < 60 for lines in wrapped)
    layouts = {
        "a paragraph a line": texts,
        "blank lines": [line for lines in wrapped for line in [*lines, ""]],
        "indents": [line for first, *rest in wrapped for line in [f"   {first}", *rest]],
        "nothing between": [line for lines in wrapped for line in lines],
    }
    for name, lines in layouts.items():
        found = list(paragraphs(lines))
        assert " ".join(found) == " ".join(texts), name
        assert found == texts, name
    assert layout_of(layouts["a paragraph a line"]).width == 0


def test_wrapped_lines_are_joined_as_they_were_and_what_never_ends_is_cut(monkeypatch):
    lines = ["It is a well-", "known fact --", "not so.", "", "Next."]
    assert list(paragraphs(lines)) == ["It is a well-known fact -- not so.", "Next."]
    monkeypatch.setattr(wraps, "MAX_PARAGRAPH_CHARACTERS", 20)
    assert list(paragraphs([*["ten long l"] * 5, "", "x"])) == [
        "ten long l ten long l ten long l", "ten long l ten long l", "x"
    ]  # fmt: skip


# ------------------------------------------------------------------------------- books


def book(num_chapters: int = 3, num_sentences: int = 30) -> str:
    chapters = "\n\n".join(
        f"CHAPTER {i}.\n\nThe Name of It\n\n" + "\n".join(wrap(SENTENCES * num_sentences))
        for i in range(1, num_chapters + 1)
    )
    contents = "\n".join(f"CHAPTER {i}. The Name of It" for i in range(1, num_chapters + 1))
    return (
        "The Project Gutenberg eBook of A Book\n\nThis eBook is for the use of anyone anywhere.\n\n"
        "*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n\nProduced by Somebody\n\n"
        f"A BOOK\n\nby Nobody\n\nLondon, 1901\n\nCONTENTS\n\n{contents}\n\n{chapters}\n\n"
        "* * * * *\n\nTHE END\n\n*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n\n"
        "Section 1. General Terms of Use.\n\nYou may copy it, give it away or keep it.\n"
    )


def test_a_book_is_its_chapters_without_licence_front_matter_and_contents(workspace):
    (workspace / "raw" / "a_book.txt").write_bytes(
        b"\xef\xbb\xbf" + book().replace("\n", "\r\n").encode()
    )
    found, tally = read("books")
    assert [document.title for document in found] == [
        f"a_book, CHAPTER {i}. The Name of It" for i in (1, 2, 3)
    ]
    expected = " ".join((SENTENCES * 30).split())
    assert all(document.text == expected for document in found)
    assert tally.paragraphs.counts["licence"] == 2
    assert tally.paragraphs.counts["ornament"] == 2
    assert tally.paragraphs.counts["front_matter"] >= 3
    (whole,), _ = read("books", documents="books")
    assert whole.text == "\n\n".join([expected] * 3)
    assert whole.title == "a_book"


def test_a_file_of_several_books_gives_them_all(workspace):
    (workspace / "raw" / "two.txt").write_text(f"{book(2)}\n\n{book(3)}")
    found, tally = read("books")
    assert [document.title.split()[2] for document in found] == ["1.", "2.", "1.", "2.", "3."]
    assert tally.paragraphs.counts["licence"] == 4


def test_a_book_that_begins_without_a_heading_loses_no_line_of_its_text(workspace):
    said = [f'"No," said {name}, and left.' for name in ("he", "she")]
    first = ["A BOOK", "by Nobody", *[SENTENCES.strip()] * 3, *said, "The end of May began well."]
    rest = ["CHAPTER II", SENTENCES.strip(), "END OF PART TWO", "The end of the second volume."]
    (workspace / "raw" / "a.txt").write_text("\n\n".join([*first, *rest, "The End of Book II."]))
    found, tally = read("books")
    assert [document.text.split("\n\n") for document in found] == [
        first[2:], [SENTENCES.strip()]
    ]  # fmt: skip
    assert tally.paragraphs.counts == {"front_matter": 2, "heading": 1, "ornament": 3}
    # Nor one of nothing but talk, which is too long for front matter.
    talk = said * 800
    (workspace / "raw" / "a.txt").write_text("\n\n".join([*talk, *rest]))
    assert read("books")[0][0].text.split("\n\n") == talk


def test_bare_numerals_are_headings_where_they_count_on():
    is_heading = Headings()
    lines = ["I", "C.", "II", "1901", "III", "L", "IV.", "Chapter Five", "I.", "2", "Part of it"]
    assert [line for line in lines if is_heading(line)] == [
        "I", "II", "III", "IV.", "Chapter Five", "I.", "2"
    ]  # fmt: skip


def test_a_long_line_is_cut_between_words(workspace, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_CHARACTERS", 50)
    text = SENTENCES * 3 + "x" * 120
    (workspace / "line.txt").write_text(f"{text}\nEnd.")
    *pieces, end = files.lines(Path("line.txt"), Tally())
    assert ("".join(pieces), end) == (text, "End.")
    assert all(piece.endswith(" ") for piece in pieces if "x" not in piece)
    assert max(map(len, pieces)) < 100


def test_a_book_of_one_endless_line_takes_bounded_memory(workspace):
    num_copies = 50_000_000 // len(SENTENCES)
    with (workspace / "raw" / "line.txt").open("w") as file:
        for _ in range(100):
            file.write(SENTENCES * (num_copies // 100))
    size = (workspace / "raw" / "line.txt").stat().st_size
    settings = BooksSource(kind="books", files=["raw/line.txt"])
    tracemalloc.start()
    num_characters = 0
    for document in reader_of("books")("mine", settings, str, Tally()):
        num_characters += len(document.text.replace("\n\n", " "))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 49_000_000
    assert abs(num_characters - size) < 100
    assert peak < 45e6


def test_real_books_lose_little_and_their_lines(shared_data):
    # One of each layout: blank lines, a paragraph a line, wrapped with nothing between.
    for name, num_chapters in [
        ("Chesterton_Thursday_1908", 16),
        ("Burnett_Princess_1905", 19),
        ("Kipling_Kim_1901", 15),
    ]:
        path = shared_data / "books" / f"{name}.txt"
        found, _ = read("books", str(path), outside_workspace=True)
        assert len(found) == num_chapters
        num_kept = sum(len(document.text) for document in found)
        assert 0.96 < num_kept / path.stat().st_size < 1
        texts = [text for document in found for text in document.text.split("\n\n")]
        # Whole paragraphs, not lines: nearly all end as sentences do.
        ends = sum(text.rstrip("\"')\u201d").endswith((".", "!", "?", "-", ":")) for text in texts)
        assert ends > 0.9 * len(texts)


def test_chapters_of_the_bookcorpus_end_before_a_heading():
    settings = BookcorpusSource(kind="bookcorpus", sentences_per_document=3)
    tally = Tally()
    rows = ["A Book", "chapter one", *"abcd", "chapter two", "e", "THE END .", "Another", "f"]
    assert list(_pieces(rows, settings, tally)) == [
        ("", ["A Book"]),
        ("chapter one", ["a", "b", "c"]),
        ("chapter one", ["d"]),
        ("chapter two", ["e"]),
        ("", ["Another", "f"]),
    ]
    assert tally.paragraphs.counts == {"heading": 3}


# ------------------------------------------------------------------------------- tables


def test_jsonl_gives_a_document_a_line_and_counts_what_is_none(workspace):
    lines = [
        json.dumps({"body": "First.", "name": "A"}),
        "{broken",
        "",
        json.dumps({"body": 3}),
        json.dumps({"body": "Lone \ud800 surrogate."}),
    ]
    (workspace / "raw" / "a.jsonl").write_text("\n".join(lines))
    found, tally = read("jsonl", text_column="body", title_column="name")
    assert [(document.title, document.text) for document in found] == [
        ("A", "First."),
        ("a 5", "Lone \ud800 surrogate."),
    ]
    assert tally.documents.counts == {"not_json": 1, "no_text": 1}
    assert tally.warnings[0] == "raw/a.jsonl, line 2: not json; it was skipped"
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: has no key 'text', only \['body', "):
        read("jsonl")


def test_tables_in_another_encoding_are_read_as_text_is(workspace):
    old = "Caf\xe9".encode("cp1252")
    (workspace / "raw" / "a.jsonl").write_bytes(b'{"text": "' + old + b'"}\n{"text": "Two."}\n')
    found, tally = read("jsonl")
    assert [document.text for document in found] == ["Caf\xe9", "Two."]
    message = ": 1 bytes are not UTF-8; they were read as Windows-1252"
    assert tally.warnings == ["raw/a.jsonl" + message]
    buffers = pa.array([old, b"Two."], pa.binary()).buffers()
    strings = pa.StringArray.from_buffers(2, buffers[1], buffers[2])
    pq.write_table(pa.table({"text": strings}), workspace / "raw" / "a.parquet")
    found, tally = read("parquet", "raw/*.parquet", title_column="text")
    assert [(document.title, document.text) for document in found] == [
        ("Caf\xe9", "Caf\xe9"),
        ("Two.", "Two."),
    ]
    # In the title and in the text.
    assert tally.warnings == ["raw/a.parquet" + message.replace("1", "2", 1)]


def test_a_parquet_file_is_read_piece_by_piece_up_to_its_damage(workspace):
    rng = np.random.default_rng(0)
    rows = [rng.bytes(300).hex() for _ in range(12_000)]
    path = workspace / "raw" / "a.parquet"
    pq.write_table(pa.table({"text": rows}), path, row_group_size=len(rows), use_dictionary=False)
    settings = ParquetSource(kind="parquet", files=["raw/*"])
    before = pa.total_allocated_bytes()
    found = reader_of("parquet")("mine", settings, str, Tally())
    assert next(found).text == rows[0]
    # Of one row group.
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 2
    stored = bytearray(path.read_bytes())
    middle = len(stored) // 2
    stored[middle : middle + 100_000] = rng.bytes(100_000)
    path.write_bytes(stored)
    with pytest.raises(DataError, match=r"a\.parquet is damaged after row \d+: "):
        read("parquet")
    stored[-60:-20] = b"\xff" * 40
    path.write_bytes(stored)
    with pytest.raises(DataError, match=r"a\.parquet is not Parquet, or is damaged"):
        read("parquet")


def test_parquet_columns_are_checked_before_anything_is_read(workspace):
    table = pa.table({"body": ["First.", None, "Second."], "year": [1, 2, 3]})
    pq.write_table(table, workspace / "raw" / "a.parquet")
    found, tally = read("parquet", text_column="body", title_column="year")
    assert [(document.id, document.title) for document in found] == [
        ("mine:raw/a.parquet#1", "1"),
        ("mine:raw/a.parquet#3", "3"),
    ]
    assert tally.documents.counts == {"no_text": 1}
    message = (
        r"a\.parquet has no column 'text', only \['body', 'year'\].*sources\.mine\.text_column"
    )
    with pytest.raises(DataError, match=message):
        read("parquet")
    with pytest.raises(DataError, match=r"column 'year' holds int64, not strings"):
        read("parquet", text_column="year")
    (workspace / "raw" / "b.parquet").write_text("not at all")
    with pytest.raises(DataError, match=r"b\.parquet is not Parquet"):
        read("parquet", text_column="body")
