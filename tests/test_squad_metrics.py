# ruff: noqa: RUF001 - the characters that look alike are what is tested
"""SQuAD's exact match and F1 against what its official script gives, and a literal computation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stages.evaluation.squad_metrics import exact_match, f1, normalise, score_answers
from tests.conftest import ROOT

# Prediction, accepted answers, exact match and F1, as printed by the official evaluate-v1.1.py
# (sha256 f5a673db...): the frozen values of github.com/genesary/Ragondin, squad_parity.tsv.
OFFICIAL = [
    ("“Hello,” she said — twice!", ["hello she said twice"], 0, 0.6666666666666665),
    ("Rock ’n’ Roll's", ["rock n rolls", "rock ’n’ rolls"], 1, 1.0),
    ("1990–1995", ["19901995", "1990 1995"], 0, 0.0),
    ("A Tale of Two Cities", ["tale of two cities"], 1, 1.0),
    ("‘the’ end", ["end", "‘ ’ end"], 1, 1.0),
    ("New\u00a0York", ["new york"], 1, 1.0),
    ("Bankman-Fried", ["bankmanfried", "Bankman Fried"], 1, 1.0),
    ("the-man", ["theman", "man"], 1, 1.0),
    ("ΟΔΟΣ", ["οδος"], 1, 1.0),
    ("thé aé", ["thé aé"], 1, 1.0),
    ("", ["Paris", "Lyon"], 0, 0.0),
    ("the big red dog", ["red dog", "big red dog barks", "a cat"], 0, 0.8571428571428571),
    ("red dog", ["cat", "Red  Dog!", "red dog red"], 1, 1.0),
    ("red big dog", ["blue", "big red dog", "red dog"], 0, 1.0),
    (".", ["."], 1, 0.0),
    ("", ["The"], 1, 0.0),
    ("?!", ["..."], 1, 0.0),
    ("U.S.A.", ["USA", "U S A"], 1, 1.0),
    ("1,000", ["1000", "1 000"], 1, 1.0),
    ("Straße", ["STRASSE", "straße"], 1, 1.0),
    ("one\u200btwo", ["one two", "one\u200btwo"], 1, 1.0),
    ("the1 a2 3an", ["the1 a2 3an"], 1, 1.0),
    ("東京 タワー", ["東京"], 0, 0.6666666666666666),
    ("the cat cat", ["cat"], 0, 0.6666666666666666),
    ("the quick brown fox", ["a quick red fox jumps"], 0, 0.5714285714285715),
    ("  The DENVER, Broncos!  ", ["denver broncos"], 1, 1.0),
    ("42 ΟΔΟΣ\u3000", ["", "ΟΔΟΣ\u001fU.S. A\t"], 0, 0.5),
]
# Questions of the validation set and the sums that published code prints for them.
PANTHERS = ["Denver Broncos"], ["Carolina Panthers"], ["Levi's Stadium"]
PUBLISHED = [
    # huggingface/evaluate, the metric card of squad.
    (
        ["1976", "Beyonce", "climate change"],
        [["1976"], ["Beyoncé and Bruno Mars"], ["climate change"]],
        (66.66666666666667, 66.66666666666667),
    ),
    # primeqa/primeqa, tests of its squad metric.
    (
        ["Denver Broncos", "Carolina Panthers", "Levi's Stadium in the San Francisco Bay Area"],
        PANTHERS,
        (66.66666666666667, 81.48148148148148),
    ),
]


@pytest.mark.parametrize(("prediction", "answers", "exact", "overlap"), OFFICIAL)
def test_values_are_the_official_scripts(
    prediction: str, answers: list[str], exact: int, overlap: float
) -> None:
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap, abs=1e-12)


@pytest.mark.parametrize(("predictions", "answers", "expected"), PUBLISHED)
def test_published_examples_have_their_published_figures(
    predictions: list[str], answers: Sequence[Sequence[str]], expected: tuple[float, float]
) -> None:
    scores = score_answers(predictions, answers)
    assert 100 * scores["exact_match"].mean() == pytest.approx(expected[0], abs=1e-9)
    assert 100 * scores["f1"].mean() == pytest.approx(expected[1], abs=1e-9)


def test_normalisation_is_the_published_one() -> None:
    # google-research/text-to-text-transfer-transformer, tests of normalize_squad.
    assert (
        normalise("`Needs\tA_LOT of the 'normalization'.\"‘") == "needs a" + "lot of normalization‘"
    )


def test_f1_by_hand() -> None:
    # "in stockholm sweden" against "stockholm": one shared of three and of one, 2 * 1/3 / (4/3).
    assert f1("in Stockholm, Sweden", ["Stockholm"]) == pytest.approx(0.5)


def test_it_agrees_with_a_literal_computation_on_random_words() -> None:
    rng = np.random.default_rng(0)
    words = ["the", "a", "An", "cat", "cat's", "dog.", "red", "U.S.", "-", "1,000", "the-cat"]

    def phrase() -> str:
        return " ".join(rng.choice(words, rng.integers(0, 6)))

    for _ in range(500):
        prediction, answers = phrase(), [phrase() for _ in range(rng.integers(1, 4))]
        assert exact_match(prediction, answers) == max(
            literal_words(prediction) == literal_words(answer) for answer in answers
        )
        assert f1(prediction, answers) == pytest.approx(
            max(literal_f1(literal_words(prediction), literal_words(a)) for a in answers)
        )


def literal_words(text: str) -> list[str]:
    """The definition, word by word: no punctuation, then no articles."""
    kept = "".join(c for c in text.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def literal_f1(predicted: list[str], true: list[str]) -> float:
    """Shared words are crossed out one by one."""
    left = list(true)
    shared = 0
    for word in predicted:
        if word in left:
            left.remove(word)
            shared += 1
    return 2 * shared / (len(predicted) + len(true)) if shared else 0.0


def test_published_predictions_get_their_published_figures(shared_data: Path) -> None:
    """A thousand real answers, and what the official script gave them: to every printed digit."""
    (source,) = (shared_data / "hub/rajpurkar/squad/plain_text").glob("validation-*.parquet")
    answers = [row["text"] for row in pq.read_table(source)["answers"][:1000].to_pylist()]
    text = (ROOT / "tests" / "published" / "squad_answers.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    predictions = [
        accepted[int(line[1:] or 1) - 1] if line.startswith("=") else line
        for line, accepted in zip(lines, answers, strict=True)
    ]
    scores = score_answers(predictions, answers)
    assert round(100 * scores["exact_match"].mean(), 3) == 56.8
    assert round(100 * scores["f1"].mean(), 3) == 71.462
    assert scores["f1"].mean() == pytest.approx(0.7146161833448988, abs=1e-12)
