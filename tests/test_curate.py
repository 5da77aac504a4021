"""Cleaning, de-duplication and hold-out."""

from pathlib import Path

import pytest

from stages.corpus.curate import Curation, clean_paragraphs, curate, is_held_out, unfit
from stages.corpus.records import Document, Tally, document_writer, read_documents
from stages.errors import DataError
from stages.files import write_json
from stages.params import Curate

RULES = Curate(min_words=4, min_alphabetic_fraction=0.6, heldout_fraction=0.3)


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


def keep_all(texts: list[str]) -> tuple[list[str | None], Tally]:
    curation, tally = Curation(RULES), Tally()
    kept = [curation.keep(document(i, text), tally) for i, text in enumerate(texts)]
    return [found.text if found else None for found in kept], tally


def test_text_is_normalised():
    # e + combining acute, soft hyphen, zero-width space, no-break space, hard wrap, a bell.
    text = "Zoe\u0308 is a\u00adway\u200b to\u00a0live\nwell.\a \n \n\n  Yes.  "
    assert clean_paragraphs(text) == ["Zo\u00eb is away to live well.", "Yes."]


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
        ["A cat sat down here.\n\nRead the licence.", "Read the licence.\n\nA dog ran off there."]
    )
    assert kept[1] == "A dog ran off there."
    assert tally.paragraphs.counts == {"duplicate_paragraph": 1}
    assert tally.paragraphs.examples == {"duplicate_paragraph": ["Read the licence."]}


def test_a_document_goes_when_too_little_of_it_is_new():
    kept, tally = keep_all(["A cat sat down here.", "A cat sat down here.\n\nIndeed so."])
    assert kept == ["A cat sat down here.", None]
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


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a/drops\.json does not exist"):
        curate(tmp_path, ["a"], tmp_path / "out", RULES, seed=3)
