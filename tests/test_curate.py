"""Cleaning, de-duplication and hold-out."""

import random
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stages.corpus import minhash
from stages.corpus.cleaning import is_boilerplate, is_english, sound_paragraphs, unfit
from stages.corpus.curate import curate, is_held_out
from stages.corpus.duplicates import Deduplication, repeated
from stages.corpus.minhash import NUM_HASHES, bands_for, near_duplicates, signature
from stages.corpus.pieces import clean_piece
from stages.corpus.records import Document, Drops, Tally, document_writer, read_documents
from stages.errors import DataError
from stages.files import write_json
from stages.params import Curate

RULES = Curate(min_words=4, min_alphabetic_fraction=0.6, heldout_fraction=0.3, language=None)


def document(number: int, text: str, source: str = "a") -> Document:
    return Document(f"{source}:{number}", source, f"Title {number}", text)


def write_source(folder: Path, name: str, texts: list[str]) -> None:
    with document_writer(folder / name / "documents.parquet") as writer:
        for number, text in enumerate(texts):
            writer.write(document(number, text, name))
    # One document was dropped when the source was read.
    tally = Tally(num_read=len(texts) + 1)
    tally.documents.add("no_prose", "x = 1")
    write_json(folder / name / "drops.json", {"num_kept": len(texts), **tally.as_json()})


def keep_all(texts: list[str], rules: Curate = RULES) -> tuple[list[str | None], Tally]:
    """What is left of each text, None of those dropped."""
    with tempfile.TemporaryDirectory() as folder:
        write_source(Path(folder), "a", texts)
        path = Path(folder) / "a" / "documents.parquet"
        piece = clean_piece("a", path, 0, Path(folder) / "out", rules)
        original = near_duplicates(piece.signatures, rules.near_duplicate_similarity or 1)
        hashes = repeated([piece.documents, piece.paragraphs])
        deduplication = Deduplication(rules, hashes, original)
        tally = piece.tally
        kept = {
            found.id: found.text
            for row in read_documents(piece.path)
            if (found := deduplication.keep(row, tally))
        }
    return [kept.get(f"a:{i}") for i in range(len(texts))], tally


def test_text_is_normalised():
    # e + combining acute, soft hyphen, zero-width space, no-break space, hard wrap, a bell.
    text = "Zoe\u0308 is a\u00adway\u200b to\u00a0live\nwell.\a \n \n\n  Yes.  "
    # Composed once the word joiner between letter and accent is gone.
    text += "\n\nZoe\u2060\u0308"
    assert sound_paragraphs(text, Drops()) == ["Zo\u00eb is away to live well.", "Yes.", "Zo\u00eb"]


@pytest.mark.parametrize(
    ("paragraphs", "reason"),
    [
        (["One two three."], "too_few_words"),
        (["One two.", "Three four."], None),
        # 8 letters and 3 spaces of 20 characters: 0.55.
        (["ab 12345 cdef 6789 gh"[:20]], "too_few_letters"),
        (["Voil\u00e0 une phrase fran\u00e7aise."], None),
    ],
)
def test_short_and_unalphabetic_documents_are_unfit(paragraphs, reason):
    assert unfit(paragraphs, RULES) == reason


def test_a_document_that_stands_twice_stays_once():
    kept, tally = keep_all(["A cat sat down here.", "A  cat sat\u200b down here."])
    assert kept == ["A cat sat down here.", None]
    assert tally.documents.counts == {"duplicate_document": 1}


def test_a_repeated_paragraph_goes_and_its_document_stays():
    kept, tally = keep_all(
        [
            "A cat sat down here.\n\nRead the licence with care.\n\nYes, sir.",
            "Read the licence with care.\n\nA dog ran off there.\n\nYes, sir.",
            "It ran off on its own.\n\nYes, sir.\n\nIt ran off on its own.",
        ]
    )
    # What is as short as an answer is nobody's.
    assert kept[1:] == [
        "A dog ran off there.\n\nYes, sir.",
        "It ran off on its own.\n\nYes, sir.",
    ]
    assert tally.paragraphs.examples == {
        "duplicate_paragraph": ["Read the licence with care.", "It ran off on its own."]
    }
    assert tally.paragraphs.counts == {"duplicate_paragraph": 2}


def test_a_document_goes_when_too_little_of_it_is_new():
    texts = ["A cat sat down here.", "A cat sat down here.\n\nIndeed so."]
    # The paragraph is not the document, whichever comes first.
    for first, second in (texts, reversed(texts)):
        kept, tally = keep_all([first, second])
        assert kept == [first, None]
        assert tally.documents.counts == {"duplicate_paragraphs": 1}


def test_a_dropped_document_takes_nothing_from_later_ones():
    kept, _ = keep_all(["Too short.", "Too short.\n\nA dog ran off there."])
    assert kept == [None, "Too short.\n\nA dog ran off there."]


def test_hold_out_is_a_property_of_the_document_alone():
    ids = [f"a:{i}" for i in range(2000)]
    held = {i for i in ids if is_held_out(i, 0.1, seed=1)}
    assert held == {i for i in reversed(ids) if is_held_out(i, 0.1, seed=1)}
    assert 0.08 < len(held) / len(ids) < 0.12
    # Another seed holds others out; a larger fraction holds out all of these and more.
    assert held != {i for i in ids if is_held_out(i, 0.1, seed=2)}
    assert held < {i for i in ids if is_held_out(i, 0.2, seed=1)}


def test_sources_are_cleaned_together_and_every_drop_is_counted(tmp_path):
    texts = [f"This is text number {i} of all of them." for i in range(30)]
    write_source(tmp_path / "in", "a", texts)
    write_source(tmp_path / "in", "b", [texts[3], "Too short.", "Something that is quite new."])
    # A folder of a source that the settings no longer name is not read.
    write_source(tmp_path / "in", "stale", ["This must never be in the corpus."])
    report = curate(tmp_path / "in", ["b", "a"], tmp_path / "out", RULES, seed=3)

    splits = {
        split: list(read_documents(tmp_path / "out" / f"{split}.parquet"))
        for split in ("train", "heldout")
    }
    assert {split: len(found) for split, found in splits.items()} == report["num_documents"]
    assert sum(report["num_documents"].values()) == 31
    assert not any("never" in found.text for split in splits.values() for found in split)
    assert report["dropped"] == {"no_prose": 2, "duplicate_document": 1, "too_few_words": 1}
    assert report["sources"]["b"]["dropped"] == {
        "no_prose": 1,
        "duplicate_document": 1,
        "too_few_words": 1,
    }
    for counts in report["sources"].values():
        assert counts["num_read"] == counts["num_kept"] + sum(counts["dropped"].values())
    assert sum(counts["num_characters"] for counts in report["sources"].values()) == sum(
        report["num_characters"].values()
    )


def test_the_same_input_gives_the_same_bytes(tmp_path):
    write_source(tmp_path / "in", "a", [f"This is text number {i} of them." for i in range(30)])
    for out in ("one", "two"):
        curate(tmp_path / "in", ["a"], tmp_path / out, RULES, seed=3)
    for name in ("train.parquet", "heldout.parquet", "drops.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_empty_corpus_says_why_and_what_to_do(tmp_path):
    write_source(tmp_path / "in", "a", ["Too short.", "This too."])
    with pytest.raises(DataError, match=r"no document is left .* too_few_words 2.*min_words"):
        curate(tmp_path / "in", ["a"], tmp_path / "out", RULES, seed=3)
    assert not (tmp_path / "out").exists()


def test_damaged_documents_are_named(tmp_path):
    write_source(tmp_path / "in", "a", [random.Random(i).randbytes(2000).hex() for i in range(50)])
    path = tmp_path / "in" / "a" / "documents.parquet"
    stored = bytearray(path.read_bytes())
    middle = len(stored) // 2
    stored[middle : middle + 500] = bytes(500)
    path.write_bytes(stored)
    with pytest.raises(DataError, match=r"a/documents\.parquet is damaged .*dvc repro"):
        curate(tmp_path / "in", ["a"], tmp_path / "out", RULES, seed=0)
    path.write_bytes(stored[:100])
    with pytest.raises(DataError, match=r"a/documents\.parquet is damaged"):
        curate(tmp_path / "in", ["a"], tmp_path / "out", RULES, seed=0)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a/drops\.json does not exist"):
        curate(tmp_path, ["a"], tmp_path / "out", RULES, seed=3)


# ------------------------------------------------------------------------------- language, damage

OTHER_LANGUAGES = {
    "German": "Der alte Mann ging am Morgen durch die Stadt, um sich ein neues Buch zu kaufen, "
    "aber der Laden war noch nicht offen. Er wartete, bis die Sonne hoch am Himmel stand.",
    "French": "Le vieil homme traversa la ville de bon matin pour acheter un nouveau livre, mais "
    "la boutique n'avait pas encore ouvert. Il attendit que le soleil soit haut dans le ciel.",
    "Spanish": "El anciano fue a la ciudad por la tarde para comprar un libro nuevo, pero no lo "
    "vendieron. Se quedo sentado hasta que el sol estuvo en lo alto.",
    "Dutch": "De oude man liep in de ochtend door de stad om een nieuw boek te kopen, maar de "
    "winkel was nog niet open. Hij wachtte tot de zon hoog aan de hemel stond.",
    "Italian": "Il vecchio andava per le vie del paese di mattina per comprare un libro nuovo, ma "
    "il negozio non era ancora aperto. Si sedette al sole.",
    "Danish": "Den gamle mand gik gennem byen om morgenen for at finde en ny bog, men butikken var "
    "lukket. Han satte sig og ventede, indtil solen var kommet op.",
    "Polish": "Stary pan poszed\u0142 rano przez miasto, aby kupi\u0107 now\u0105 gazet\u0119, ale "
    "sklep by\u0142 jeszcze zamkni\u0119ty.",
}


@pytest.mark.parametrize("name", OTHER_LANGUAGES)
def test_other_languages_are_told(name):
    assert not is_english([OTHER_LANGUAGES[name]])


@pytest.mark.parametrize(
    "text",
    [
        "The old man walked through the town in the morning to buy a new book.",
        "Return the number of rows that are left after the index has been sorted.",
        "Kabul, Herat, Kandahar and Mazar-i-Sharif are the largest cities of Afghanistan.",
    ],
)
def test_english_is_told(text):
    assert is_english([text])


def test_a_long_text_needs_more_english_than_a_short_one():
    # Of 190 words 5 % are English, and of 200.
    assert is_english([" ".join([*["lorem"] * 180, *["the"] * 10])])
    assert not is_english([" ".join([*["lorem"] * 190, *["the"] * 10])])


def test_damaged_paragraphs_are_mended_or_dropped_and_boilerplate_goes():
    drops = Drops()
    paragraphs = [
        "A caf\u00c3\u00a9 isn\u00e2\u20ac\u2122t far.",
        "Lost \ufffd\ufffd letters.",
        "A lost\x81 letter.",
        "Copyright \u00a9 2012 by Somebody. All rights reserved.",
        "\u00c0 la carte, S\u00e3o\xa0Paulo and CAF\u00c9\xa0: words.",
    ]
    assert sound_paragraphs("\n\n".join(paragraphs), drops) == [
        "A caf\u00e9 isn\u2019t far.",
        "\u00c0 la carte, S\u00e3o Paulo and CAF\u00c9 : words.",
    ]
    assert drops.counts == {"mojibake": 2, "boilerplate": 1}
    # A longer paragraph says something of its own: 120 words, and 121.
    long = "ISBN-1 " + "word " * 119
    assert is_boilerplate(long)
    assert not is_boilerplate(long + "word")


@pytest.mark.parametrize("encoding", ["latin-1", "sloppy-windows-1252"])
def test_text_of_another_encoding_is_mended_before_anything_is_taken_out(encoding):
    import ftfy  # noqa: F401 - it brings the encoding

    text = "\u201cI don\u2019t know Mar\u00eda\u201d, he said, voil\u00e0 \u2026 in \u00c1vila."
    assert sound_paragraphs(text.encode().decode(encoding), Drops()) == [text]
    old = text.encode("windows-1252").decode(encoding)
    assert sound_paragraphs(old, Drops()) == [text]


# ------------------------------------------------------------------------------- near duplicates


def words(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    letters = rng.integers(ord("a"), ord("z") + 1, (count, 4), dtype=np.uint8)
    return [row.tobytes().decode() for row in letters]


def changed(text: list[str], count: int, seed: int = 0) -> list[str]:
    places = np.random.default_rng(seed).choice(len(text), count, replace=False)
    return ["changed" if i in set(places.tolist()) else word for i, word in enumerate(text)]


def likeness(one: list[str], other: list[str]) -> float:
    a, b = ({tuple(text[i : i + 5]) for i in range(len(text) - 4)} for text in (one, other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("num_changed", [0, 5, 20, 60])
def test_signatures_agree_as_much_as_texts_are_alike(num_changed):
    one = words(1, 3000)
    other = changed(one, num_changed)
    first, second = signature(" ".join(one)), signature(" ".join(other))
    # Four standard errors of 128 draws.
    expected = likeness(one, other)
    assert abs((first == second).mean() - expected) <= 4 * (expected * (1 - expected) / 128) ** 0.5


def test_case_punctuation_and_length_do_not_hide_a_copy():
    text = " ".join(words(2, 200_000))  # several pieces
    shouted = text.upper().replace(" ", ",  \n")
    assert len(text) > 2 << 18
    assert (signature(text) == signature(shouted)).all()
    typed = "\"Don't go, \u00c9mile -- not yet,\" she said, 'I can't'"
    printed = (
        "\u201cDon\u2019t go, \u00e9mile\u2014not yet,\u201d she said, \u2018I can\u2019t\u2019"
    )
    assert (signature(typed) == signature(printed)).all()


def test_looking_for_near_duplicates_takes_little_memory_a_document():
    signatures = np.random.default_rng(0).integers(0, 2**32, (20_000, NUM_HASHES), dtype=np.uint32)
    signatures[15_000] = signatures[7]
    near_duplicates(signatures[:2], 0.8)  # what numpy imports is no part of it
    tracemalloc.start()
    original = near_duplicates(signatures, 0.8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {i: int(o) for i, o in enumerate(original) if o >= 0} == {15_000: 7}
    assert peak < 45 * len(signatures)


def test_near_duplicates_are_found_whatever_stands_between(monkeypatch):
    monkeypatch.setattr(minhash, "AT_ONCE", 2)
    texts = [words(seed, 400) for seed in range(40)]
    texts[30] = changed(texts[3], 3)
    texts[31] = changed(texts[3], 4, seed=1)
    texts[35] = changed(texts[20], 200)
    signatures = np.stack([signature(" ".join(text)) for text in texts])
    original = near_duplicates(signatures, 0.8)
    assert {i: int(o) for i, o in enumerate(original) if o >= 0} == {30: 3, 31: 3}
    copies = np.repeat(signatures[:1], 6, axis=0)
    assert near_duplicates(copies, 0.8).tolist() == [-1, 0, 0, 0, 0, 0]


def test_what_is_dropped_stands_for_nothing():
    a = words(1, 600)
    b = changed(a, 9)
    # Like b, and not like a.
    c = [*b[100:], *words(5, 100)]
    signatures = np.stack([signature(" ".join(text)) for text in (a, b, c)])
    alike = lambda i, j: (signatures[i] == signatures[j]).mean()  # noqa: E731
    threshold = (alike(1, 2) + alike(0, 2)) / 2
    assert alike(0, 1) > threshold > 0.5
    assert near_duplicates(signatures, threshold).tolist() == [-1, 0, -1]


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_miss_few_pairs(threshold):
    num_bands, num_rows = bands_for(threshold)
    assert num_bands * num_rows <= NUM_HASHES
    assert 1 - (1 - threshold**num_rows) ** num_bands > 0.95


BOOK = [[" ".join(words(1000 * c + p, 60)) for p in range(12)] for c in range(8)]


def test_a_repeated_book_is_found_chapter_by_chapter(tmp_path):
    """One source holds a book twice, another once more with a word changed here and there."""
    chapters = ["\n\n".join(paragraphs) for paragraphs in BOOK]
    others = [" ".join(words(seed, 500)) for seed in range(20)]
    retyped = [" ".join(changed(text.split(" "), 7)) for text in chapters]
    others[0] = "Too short."  # what is dropped before counts among none of the signatures
    write_source(tmp_path / "in", "a", [*others[:10], *chapters, *others[10:], *chapters])
    write_source(tmp_path / "in", "b", retyped)
    report = curate(tmp_path / "in", ["a", "b"], tmp_path / "out", RULES, seed=3)
    assert report["sources"]["a"]["dropped"] == {
        "no_prose": 1, "too_few_words": 1, "duplicate_document": 8
    }  # fmt: skip
    assert report["sources"]["b"]["dropped"] == {"no_prose": 1, "near_duplicate": 8}
    assert report["examples"]["near_duplicate"][0].startswith("Title 0 is Title 10: ")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(tmp_path):
    texts = [" ".join(words(seed % 2100, 25)) for seed in range(4500)]
    write_source(tmp_path / "in", "a", texts)
    outputs = []
    for num_workers in (0, 1, 3):
        out = tmp_path / str(num_workers)
        curate(tmp_path / "in", ["a"], out, RULES, seed=3, num_workers=num_workers)
        outputs.append([path.read_bytes() for path in sorted(out.iterdir())])
    assert outputs[0] == outputs[1] == outputs[2]
