"""Exact match and F1 of SQuAD 1.1, question by question, as its official script has them.

An answer is compared in lower case, without ASCII punctuation, without the articles a, an and the,
and with single spaces. A prediction counts as the best of the accepted answers. Two empty answers
match exactly and have an F1 of 0, because that script looks for shared words before anything else.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ARTICLE = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Return an answer as it is compared."""
    return " ".join(ARTICLE.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 where the prediction is one of the accepted answers, else 0."""
    return float(normalise(prediction) in {normalise(answer) for answer in answers})


def f1(prediction: str, answers: Sequence[str]) -> float:
    """Return the overlap in words with the accepted answer that it overlaps most, 0 to 1."""
    return max(_overlap(normalise(prediction).split(), normalise(a).split()) for a in answers)


def score_answers(
    predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """Return both metrics of every question, 0 to 1; the published figure is 100 x their mean.

    Args:
        predictions: one answer per question; empty where there is none.
        answers: the accepted answers of each question, one or more.
    """
    pairs = list(zip(predictions, answers, strict=True))
    return {
        "exact_match": np.array([exact_match(*pair) for pair in pairs]),
        "f1": np.array([f1(*pair) for pair in pairs]),
    }


def _overlap(predicted: list[str], true: list[str]) -> float:
    num_shared = (Counter(predicted) & Counter(true)).total()
    if not num_shared:
        return 0.0
    precision, recall = num_shared / len(predicted), num_shared / len(true)
    return 2 * precision * recall / (precision + recall)
