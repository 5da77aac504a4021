"""Sources of text, and the stage that reads one into a documents file."""

import json
import os
import random
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus import records
from stages.corpus.ahead import LOOKAHEAD, in_order
from stages.corpus.documents import read_source
from stages.corpus.records import Document, Drops, Tally, document_writer, read_documents
from stages.corpus.sources import KINDS, docstrings, hub, reader_of
from stages.corpus.sources.bookcorpus import paragraphs
from stages.corpus.sources.modules import docstrings_of
from stages.corpus.sources.wikipedia import running_text
from stages.corpus.workers import processes
from stages.errors import DataError, DistilleryError
from stages.params import BookcorpusSource, DocstringsSource, WikipediaSource

SENTENCE = "This is the {} sentence of all those that the package has to tell."


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which packages can be imported; theirs must not be."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def make_package(library: Path, name: str, modules: dict[str, str]) -> None:
    folder = library / name
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    for module, docstring in modules.items():
        path = folder / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'"""{docstring}"""\n')


def source_of(*packages: str, max_megabytes: float | None = None) -> DocstringsSource:
    return DocstringsSource(kind="docstrings", packages=list(packages), max_megabytes=max_megabytes)


def read(settings: DocstringsSource) -> list[tuple[str, str]]:
    found = docstrings.documents("code", settings, str, Tally())
    return [(document.title, document.text) for document in found]


def settings_with(source: object, hub_root: Path | None = None) -> SimpleNamespace:
    """The part of the settings that reading a source looks at."""
    return SimpleNamespace(
        corpus=SimpleNamespace(sources={"text": source}),
        hub_path=lambda dataset: dataset if hub_root is None else str(hub_root / dataset),
    )


def test_every_kind_has_a_reader():
    assert all(callable(reader_of(kind)) for kind in KINDS)


def test_docstrings_are_found_with_their_qualified_names(tmp_path):
    path = tmp_path / "shapes.py"
    path.write_text(
        '"""About shapes."""\n'
        "class Circle:\n"
        '    """A round thing that has the same width all around it."""\n'
        "    def area(self):\n"
        '        """Return how much of the plane is inside of this circle."""\n'
        'add_newdoc("shapes", "square", """Return a thing with four corners and four sides.""")\n'
        'cut = _add_docstr(_C.cut, r"""Cut a thing in two halves that are of one size.""")\n'
        'log("not a docstring", "even though it is a long text in a call")\n'
    )
    assert [docstring.title for docstring in docstrings_of("my.shapes", path)] == [
        "my.shapes",
        "my.shapes.Circle",
        "my.shapes.Circle.area",
        "my.shapes.shapes.square",
        "my.shapes.cut",
    ]


def test_a_file_that_is_not_python_documents_nothing(tmp_path):
    path = tmp_path / "template.py"
    path.write_text('"""A template."""\nclass {{ name }}:\n')
    assert docstrings_of("template", path) == []


def test_packages_are_read_without_being_imported_and_share_the_budget(library):
    # Modules of about 65 characters: forty in one package, one in the other.
    make_package(library, "aaa_big", {f"m{i}": SENTENCE.format(i) for i in range(40)})
    make_package(library, "aaa_small", {"only": SENTENCE.format("only")})
    found = read(source_of("aaa_big", "aaa_small", max_megabytes=400e-6))

    assert "aaa_big" not in sys.modules
    titles = [title for title, _ in found]
    assert {title.split(".")[0] for title in titles} == {"aaa_big", "aaa_small"}
    # The small package is used up; the big one goes on until there is enough, not to its end.
    assert sum(len(text) for _, text in found) >= 400
    assert len(found) < 10


def test_the_order_does_not_depend_on_the_file_system(library, monkeypatch):
    make_package(library, "aaa_order", {f"m{i}": SENTENCE.format(i) for i in range(12)})
    before = read(source_of("aaa_order"))
    real = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: sorted(real(self, pattern))[::-1])
    assert read(source_of("aaa_order")) == before
    assert len(before) == 12


def test_repeated_paragraphs_and_tests_are_left_out(library):
    make_package(
        library,
        "aaa_twice",
        {"one": SENTENCE.format(1), "two": SENTENCE.format(1), "tests/three": SENTENCE.format(3)},
    )
    # Two of one name are two documents.
    definitions = [f'def f():\n    """{SENTENCE.format(i)}"""\n' for i in (4, 5)]
    (library / "aaa_twice" / "same.py").write_text("".join(definitions))
    tally = Tally()
    found = list(docstrings.documents("code", source_of("aaa_twice"), str, tally))
    assert {document.id: document.text for document in found if "same" in document.id} == {
        "code:aaa_twice.same.f": SENTENCE.format(4),
        "code:aaa_twice.same.f#2": SENTENCE.format(5),
    }
    assert [d.text for d in found if "same" not in d.id] == [SENTENCE.format(1)]
    assert tally.paragraphs.counts == {"repeated": 1}
    assert tally.documents.counts == {"no_prose": 1}
    assert tally.num_read == 4


def test_a_missing_package_is_named():
    with pytest.raises(DataError, match=r"packages names 'no_such_package'"):
        read(source_of("no_such_package"))


def test_the_stage_writes_documents_and_accounts_for_every_drop(library, tmp_path):
    modules = {"good": SENTENCE.format("good"), "bad": "x = 1"}
    make_package(library, "aaa_stage", modules)
    out = tmp_path / "documents" / "text"
    read_source("text", settings_with(source_of("aaa_stage")), out)

    (document,) = read_documents(out / "documents.parquet")
    assert document.id == "text:aaa_stage.good"
    assert document.source == "text"
    assert document.title == "aaa_stage.good"
    drops = json.loads((out / "drops.json").read_text())
    assert drops["source"] == "text"
    assert drops["num_read"] == drops["num_kept"] + sum(drops["dropped"].values())
    assert drops["examples"]["no_prose"] == ["x = 1"]


def test_a_source_that_gives_nothing_says_what_to_do(library, tmp_path):
    make_package(library, "aaa_empty", {"bad": "x = 1"})
    with pytest.raises(
        DataError, match=r"corpus\.sources\.text gave no document: 1 .*no_prose 1.*name another"
    ):
        read_source("text", settings_with(source_of("aaa_empty")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_grow_is_what_is_told(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write() -> None:
        with document_writer(tmp_path / "documents.parquet") as writer:
            for seed in range(8):
                text = random.Random(seed).randbytes(500_000).hex()
                writer.write(Document("a", "a", "a", text))

    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        # As on a full disk; not what closing the rest of the file would say.
        with pytest.raises(OSError, match="File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_group_of_documents_ends_where_it_is_long(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(records, "CHARACTERS_PER_GROUP", 10)
    with document_writer(tmp_path / "documents.parquet") as writer:
        for text in ("a", "b", "c", "long text.", "d", "long text."):
            writer.write(Document(text, "a", "a", text))
    groups = pq.ParquetFile(tmp_path / "documents.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [3, 1, 2]


def test_warnings_past_the_first_are_told_of_and_hide_no_other_source_s():
    one, other = Tally(), Tally()
    for number in range(25):
        one.warn(f"file {number} is empty")
    other.warn("the other's file is empty")
    one.include(other)
    assert one.warnings[19:] == [
        "file 19 is empty", "there were more warnings; the log has them all",
        "the other's file is empty",
    ]  # fmt: skip


def test_only_the_first_examples_of_a_reason_are_kept():
    drops = Drops()
    for i in range(5):
        drops.add("reason", f"text {i} " + "long " * 100)
    drops |= drops
    assert drops.counts == {"reason": 10}
    assert [text[:6] for text in drops.examples["reason"]] == ["text 0", "text 1", "text 2"]
    assert all(len(text) == 163 for text in drops.examples["reason"])  # 160 and three dots


def test_articles_lose_headings_items_and_what_follows_the_references():
    long = "A line of twelve words is text though no stop ends it"
    article = (
        "Lead paragraph, which is a sentence.\n\nHistory \n\nIt began long ago.\n an item\n"
        f"{long}\n"
        "\nReferences \n\nA book. \n\nCategory:Things"
    )
    tally = Tally()
    assert running_text(article, tally) == (
        f"Lead paragraph, which is a sentence.\n\nIt began long ago.\n\n{long}"
    )
    assert tally.paragraphs.counts == {"heading_or_item": 2, "apparatus": 3}


def test_the_paragraphs_of_a_book_do_not_depend_on_where_reading_began():
    sentences = [f"Sentence number {i} of the book." for i in range(400)]
    whole, later = list(paragraphs(sentences)), list(paragraphs(sentences[7:]))
    assert " ".join(whole) == " ".join(sentences)
    # All but the first paragraphs, which the beginning cuts differently, are the same.
    assert len(later) > 10
    assert whole[-len(later) + 1 :] == later[1:]


def hub_copy(folder: Path, dataset: str, config: str, rows: list[dict[str, str]]) -> None:
    target = folder / dataset / config
    target.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), target / "train-00000-of-00001.parquet")
    (folder / dataset / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: train\n"
        f"    path: {config}/train-*\n---\n"
    )


@pytest.mark.slow
def test_wikipedia_and_books_are_read_from_a_local_copy_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    article = "This is the article's only sentence, and it says little."
    rows = [{"id": str(i), "url": "", "title": f"Title {i}", "text": article} for i in range(5)]
    rows[1]["text"] = None
    hub_copy(tmp_path, "wikimedia/wikipedia", "20231101.en", rows)
    hub_copy(tmp_path, "bookcorpus/bookcorpus", "plain_text", [{"text": "He ran ."}] * 25)

    wikipedia = WikipediaSource(kind="wikipedia", max_documents=3)
    read_source("text", settings_with(wikipedia, tmp_path), tmp_path / "wikipedia")
    found = list(read_documents(tmp_path / "wikipedia" / "documents.parquet"))
    assert [document.title for document in found] == ["Title 0", "Title 2"]
    assert found[0].text == article

    books = BookcorpusSource(kind="bookcorpus", sentences_per_document=10, max_documents=2)
    read_source("text", settings_with(books, tmp_path), tmp_path / "books")
    found = list(read_documents(tmp_path / "books" / "documents.parquet"))
    assert [document.text.count("He ran .") for document in found] == [10, 10]


def test_a_copy_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist; put the data set there, or set hub_root"):
        next(hub.stream(str(tmp_path / "nothing"), "config", []))
    hub_copy(tmp_path, "other/data", "plain", [{"body": "Text."}])
    with pytest.raises(DataError, match=r"data \(plain\) has no column 'text', only \['body'\]"):
        next(hub.stream(str(tmp_path / "other/data"), "plain", ["body", "text"]))


def test_every_worker_has_work_while_the_first_result_is_waited_for():
    # No call returns before all eight are under way.
    barrier = Barrier(8, timeout=10)
    calls = [(barrier.wait, ())] * 8
    with ThreadPoolExecutor(8) as executor:
        assert sorted(in_order(executor, 8, calls)) == list(range(8))
        # And no more is taken than keeps them at work: what is read waits in memory.
        numbers = count()
        assert next(in_order(executor, 8, ((int, ()) for _ in numbers))) == 0
        assert next(numbers) == 8 + LOOKAHEAD + 1


def test_a_lost_worker_is_told():
    with processes(1) as executor, pytest.raises(DistilleryError, match="a worker process was"):
        list(in_order(executor, 1, [(os._exit, (1,))]))
