"""The tasks made from the corpus: labels that are true, examples that give no easy hint."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.errors import DataError
from stages.evaluation.corruption import CORRUPTIONS, corrupt
from stages.evaluation.curated import Document
from stages.evaluation.derived import (
    MAX_TRAIN,
    Example,
    alternate,
    derive,
    derive_from,
    mask_pattern,
    package,
)

PACKAGES = ("numpy", "pandas", "scipy")
WORDS = (
    *("array", "axis", "value", "index", "window", "matrix", "column", "result", "method"),
    *("default", "shape", "number", "order", "input", "sample", "weight", "signal", "filter"),
    *("label", "error", "range", "point", "length", "factor"),
)


def sentence(rng: np.random.Generator, verb: str) -> str:
    """A sentence of at most 12 words that no other call is likely to make."""
    words = rng.choice(WORDS, size=int(rng.integers(6, 10)))
    return f"The {' '.join(words)} {verb}."


def documents(num: int, seed: int, packages: tuple[str, ...] = PACKAGES) -> list[Document]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(num):
        name = packages[i % len(packages)]
        paragraphs = (
            sentence(rng, "is returned"),
            f"{sentence(rng, 'stays')} See {name}.",
            sentence(rng, "is raised"),
        )
        made.append(Document(name, True, paragraphs))
    return made


@pytest.fixture(scope="module")
def corpus() -> tuple[list[Document], list[Document]]:
    return documents(400, seed=1), documents(90, seed=2)


TASKS = ["acceptability", "package", "summary_match"]


@pytest.mark.parametrize("name", TASKS)
def test_the_same_seed_makes_the_same_examples(name: str, corpus):
    assert derive_from(name, *corpus, seed=5) == derive_from(name, *corpus, seed=5)
    assert derive_from(name, *corpus, seed=5) != derive_from(name, *corpus, seed=6)


@pytest.mark.parametrize("name", TASKS)
def test_no_text_is_in_both_splits(name: str, corpus):
    data = derive_from(name, *corpus, seed=5)
    train = {text for example in data.train for text in (example.text_a, example.text_b) if text}
    for example in data.validation["validation"]:
        assert example.text_a not in train
        assert example.text_b not in train


@pytest.mark.parametrize("name", ["acceptability", "summary_match"])
def test_both_labels_are_equally_frequent(name: str, corpus):
    data = derive_from(name, *corpus, seed=5)
    for examples in (data.train, data.validation["validation"]):
        assert np.mean([example.label for example in examples]) == 0.5


def test_a_validation_text_that_training_has_seen_is_left_out(corpus):
    train, heldout = corpus
    alone = derive_from("acceptability", train, heldout, seed=5)
    # Every train document held out again adds nothing to validate on.
    again = derive_from("acceptability", train, heldout + train, seed=5)
    seen = {example.text_a for example in alone.train if example.label == 1}
    assert not seen & {example.text_a for example in again.validation["validation"]}


def test_acceptable_sentences_are_in_the_corpus_and_corrupted_ones_are_not(corpus):
    train, heldout = corpus
    text = " ".join(p for document in train for p in document.paragraphs)
    for example in derive_from("acceptability", train, heldout, seed=5).train:
        assert (example.text_a in text) == bool(example.label)


def test_length_tells_next_to_nothing_about_acceptability(corpus):
    train = derive_from("acceptability", *corpus, seed=5).train
    lengths = np.array([len(example.text_a.split()) for example in train])
    labels = np.array([example.label for example in train])
    best = max(np.mean((lengths > cut) == labels) for cut in range(5, 30))
    assert best < 0.62


def test_corruption_keeps_the_first_and_last_word_and_every_punctuated_or_capital_one():
    rng = np.random.default_rng(0)
    text = "When some values, such as Fourier ones, are not given here, the others fill in."
    for _ in range(200):
        corrupted = corrupt(text, ["alpha", "beta"], rng)
        assert re.findall(r"\w*[A-Z,.]\w*|\w+[,.]", corrupted) == re.findall(
            r"\w*[A-Z,.]\w*|\w+[,.]", text
        )
        assert corrupted.startswith("When ")
        assert corrupted.endswith(" in.")


def test_each_corruption_by_hand():
    """Twelve inner words: four are replaced, three dropped, three pairs swapped, eight shuffled."""
    tokens = [str(i) for i in range(14)]
    inner = list(range(1, 13))
    rng = np.random.default_rng(0)
    replace, drop, swap, shuffle = (f(tokens, inner, ["new"], rng) for f in CORRUPTIONS)
    assert sum(token == "new" for token in replace) == 4
    assert len(drop) == 11
    assert set(drop) < set(tokens)
    assert sum(a != b for a, b in zip(swap, tokens, strict=True)) == 6
    assert sorted(swap) == sorted(shuffle) == sorted(tokens)
    moved = [i for i, token in enumerate(shuffle) if token != tokens[i]]
    assert moved
    assert max(moved) - min(moved) < 8
    for corrupted in (replace, drop, swap, shuffle):
        assert (corrupted[0], corrupted[-1]) == ("0", "13")


def test_package_labels_are_the_packages_of_the_corpus_sorted(corpus):
    assert derive_from("package", *corpus, seed=5).labels == PACKAGES


def test_package_names_are_masked_however_they_are_written():
    pattern = mask_pattern(["numpy", "pandas", "sklearn", "torch"])
    text = "NumPy arrays (np.ndarray), `pandas.DataFrame`, scikit-learn, PyTorch, torch_function"
    assert pattern.sub("package", text) == (
        "package arrays (package.ndarray), `package.DataFrame`, package, package, package"
    )


def test_a_short_name_is_masked_as_a_whole_word_only():
    assert mask_pattern(["numpy"]).sub("package", "the input of np") == "the input of package"


def test_no_package_example_names_a_package(corpus):
    for example in derive_from("package", *corpus, seed=5).train:
        assert not re.search("numpy|pandas|scipy", example.text_a, re.IGNORECASE)


def test_a_paragraph_that_two_packages_share_is_left_out():
    shared = "This file is free software and may be copied by everyone who likes to."
    docs = [Document(name, True, (shared,)) for name in ("numpy", "pandas")]
    assert package(docs, np.random.default_rng(0), ("numpy", "pandas")) == []


def test_a_match_is_a_summary_with_its_own_body_and_the_rest_are_of_the_same_package(corpus):
    train, heldout = corpus
    owner = {}
    for document in train:
        summary, body, _ = document.paragraphs
        owner[summary] = (document.group, body)
    group_of_body = {body: group for group, body in owner.values()}
    for example in derive_from("summary_match", train, heldout, seed=5).train:
        group, body = owner[example.text_a]
        assert (example.text_b == body) == bool(example.label)
        assert group_of_body[example.text_b] == group


def test_a_body_is_used_once_so_that_it_alone_tells_nothing(corpus):
    documents, heldout = corpus
    train = derive_from("summary_match", documents + documents[:50], heldout, seed=5).train
    assert len({example.text_b for example in train}) == len(train)


def test_packages_are_mixed_in_summary_match(corpus):
    owner = {document.paragraphs[0]: document.group for document in corpus[0]}
    train = derive_from("summary_match", *corpus, seed=5).train
    assert {owner[example.text_a] for example in train[:30]} == set(PACKAGES)


def test_whatever_is_taken_first_is_balanced():
    examples = [Example(str(i), None, int(i >= 6)) for i in range(9)]
    assert [example.label for example in alternate(examples, 2)] == [0, 1, 0, 1, 0, 1]
    three = [Example(str(i), None, i % 3) for i in range(6)] + [Example("x", None, 1)]
    assert [example.label for example in alternate(three, 3)] == [0, 1, 2, 0, 1, 2, 1]


def test_a_corpus_of_one_package_has_no_package_task():
    train = documents(100, seed=1, packages=("numpy",))
    with pytest.raises(DataError, match=r"documents 1 packages .* take 'package' out"):
        derive_from("package", train, train, seed=5)


def test_a_corpus_without_docstrings_has_no_package_task_but_the_other_two():
    plain = [Document("wikipedia", False, d.paragraphs) for d in documents(300, seed=1)]
    held = [Document("wikipedia", False, d.paragraphs) for d in documents(60, seed=2)]
    with pytest.raises(DataError, match="documents 0 packages"):
        derive_from("package", plain, held, seed=5)
    assert len(derive_from("acceptability", plain, held, seed=5).train) > 300
    assert len(derive_from("summary_match", plain, held, seed=5).train) > 200


@pytest.mark.parametrize("name", ["acceptability", "summary_match"])
def test_too_little_text_is_refused_with_the_numbers(name: str):
    few = [Document("books", False, ("One line.",))]
    with pytest.raises(DataError, match=f"task {name}: the corpus gives 0 train and 0 validation"):
        derive_from(name, few, few, seed=5)


def test_a_large_corpus_gives_no_more_than_asked(corpus):
    data = derive_from("acceptability", documents(3000, seed=3), corpus[1], seed=5)
    assert len(data.train) == MAX_TRAIN


def test_documents_are_read_from_the_curated_corpus(tmp_path: Path):
    for split, num, seed in (("train", 200, 1), ("heldout", 60, 2)):
        docs = documents(num, seed)
        columns = {
            "id": [str(i) for i in range(num)],
            "source": ["docstrings"] * num,
            "title": [f"{d.group}.core.f{i}" for i, d in enumerate(docs)],
            "text": ["\n\n".join(d.paragraphs) for d in docs],
        }
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet", row_group_size=50)
    data = derive("package", tmp_path, seed=5)
    assert data.labels == PACKAGES
    assert len(data.validation["validation"]) > 100


def test_a_missing_corpus_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"train.parquet does not exist; run: dvc repro curate"):
        derive("package", tmp_path, seed=5)
