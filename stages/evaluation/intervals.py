"""How far a retention may be off: a bootstrap over validation examples and seeds.

Each of NUM_DRAWS times, every task's validation examples are drawn anew with replacement, the same
for teacher and students (so that what is hard for both cancels out), and each model's seeds are
drawn anew; the retention of that draw is computed as the reported one is: medians over seeds,
student / teacher per task, mean over tasks. The interval is between percentiles of the draws
(Efron and Tibshirani 1993, chapter 13). With one seed it knows nothing of training's luck; with
few it knows too little of it, and is too narrow.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluation.predictions import SeedAnswers

METHOD = "paired bootstrap over validation examples and seeds, percentile interval"
LEVEL = 0.95
NUM_DRAWS = 1000
DRAWS_AT_ONCE = 100
"""Bounds the memory: 100 draws of 40,000 examples are 32 MB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """Where LEVEL of the draws lie, in percent of the teacher."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model and its teacher answered on one task's headline split."""

    teacher: SeedAnswers
    student: SeedAnswers
    scored_by: tuple[str, ...]
    """The metrics whose mean is the task's score."""


def retention_intervals(
    tasks: Mapping[str, Answered], seed: int = 0
) -> tuple[Interval | None, dict[str, Interval | None]]:
    """Return the interval of the mean retention, and of every task's own.

    None where a draw's teacher scores 0 or less: a share of that says nothing.
    """
    ratios = {
        name: _ratios(answered, np.random.default_rng([seed, *name.encode()]))
        for name, answered in tasks.items()
    }
    by_task = {name: _interval(values) for name, values in ratios.items()}
    return _interval(np.mean(list(ratios.values()), axis=0)), by_task


def _interval(ratios_R: Floats) -> Interval | None:
    if not np.all(np.isfinite(ratios_R)):
        return None
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(100 * ratios_R, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _ratios(answered: Answered, rng: np.random.Generator) -> Floats:
    """Return student / teacher of every draw; NaN where the teacher scores 0 or less."""
    found = []
    for weights_RN in draws(answered.teacher.answers_SN.shape[1], rng):
        medians = [
            _median_of_drawn_seeds(scores(model, answered.scored_by, weights_RN), rng)
            for model in (answered.teacher, answered.student)
        ]
        teacher_R, student_R = medians
        safe_R = np.where(teacher_R > 0, teacher_R, np.nan)
        found.append(student_R / safe_R)
    return np.concatenate(found)


def draws(num_examples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield how often each draw has each example, R x N, NUM_DRAWS in all."""
    for _ in range(NUM_DRAWS // DRAWS_AT_ONCE):
        picked = rng.integers(0, num_examples, size=(DRAWS_AT_ONCE, num_examples))
        yield np.stack([np.bincount(row, minlength=num_examples) for row in picked]).astype(float)


def _median_of_drawn_seeds(scores_RS: Floats, rng: np.random.Generator) -> Floats:
    num_seeds = scores_RS.shape[1]
    chosen_RS = rng.integers(0, num_seeds, size=scores_RS.shape)
    median: Floats = np.median(np.take_along_axis(scores_RS, chosen_RS, axis=1), axis=1)
    return median


def scores(model: SeedAnswers, metrics: tuple[str, ...], weights_RN: Floats) -> Floats:
    """Return a model's score on every draw with every seed, R x S, on the metrics' raw scale."""
    by_seed = [
        np.mean([weighted_metric(name, model, seed, weights_RN) for name in metrics], axis=0)
        for seed in range(len(model.answers_SN))
    ]
    return np.stack(by_seed, axis=1)


def weighted_metric(name: str, model: SeedAnswers, seed: int, weights_RN: Floats) -> Floats:
    """Return a metric over examples that each draw has as often as its weight says."""
    if name in model.scores_SN:
        averages: Floats = weights_RN @ model.scores_SN[name][seed] / weights_RN.sum(axis=1)
        return averages
    assert model.truth_N is not None
    return _METRICS[name](model.answers_SN[seed], model.truth_N, weights_RN)


def _accuracy(answers_N: NDArray[Any], truth_N: NDArray[Any], weights_RN: Floats) -> Floats:
    shares: Floats = weights_RN @ (answers_N == truth_N) / weights_RN.sum(axis=1)
    return shares


def _f1(answers_N: NDArray[Any], truth_N: NDArray[Any], weights_RN: Floats) -> Floats:
    told_N, true_N = answers_N == 1, truth_N == 1
    return _ratio(2 * (weights_RN @ (told_N & true_N)), weights_RN @ told_N + weights_RN @ true_N)


def _mcc(answers_N: NDArray[Any], truth_N: NDArray[Any], weights_RN: Floats) -> Floats:
    # What a confusion matrix has in its margins and its diagonal; a whole one of 150 labels would
    # be 22,500 columns of examples.
    labels_C = np.arange(max(answers_N.max(), truth_N.max()) + 1)
    answered_RC = weights_RN @ (answers_N[:, None] == labels_C)
    true_RC = weights_RN @ (truth_N[:, None] == labels_C)
    num_R, right_R = weights_RN.sum(axis=1), weights_RN @ (answers_N == truth_N)
    spread_R = (num_R**2 - (true_RC**2).sum(axis=1)) * (num_R**2 - (answered_RC**2).sum(axis=1))
    return _ratio(right_R * num_R - (true_RC * answered_RC).sum(axis=1), np.sqrt(spread_R))


def _pearson(x: NDArray[Any], y: NDArray[Any], weights_RN: Floats) -> Floats:
    """Return the linear correlation; x and y are N, or R x N where they differ between draws."""
    # In float64: the squares of float32 answers that hardly differ would vanish.
    x, y = x.astype(np.float64), y.astype(np.float64)
    total_R1 = weights_RN.sum(axis=1, keepdims=True)
    x_RN = x - (weights_RN * x).sum(axis=1, keepdims=True) / total_R1
    y_RN = y - (weights_RN * y).sum(axis=1, keepdims=True) / total_R1
    products = [
        (weights_RN * a * b).sum(axis=1) for a, b in ((x_RN, y_RN), (x_RN, x_RN), (y_RN, y_RN))
    ]
    return _ratio(products[0], np.sqrt(products[1] * products[2]))


def _spearman(x: NDArray[Any], y: NDArray[Any], weights_RN: Floats) -> Floats:
    return _pearson(_ranks(x, weights_RN), _ranks(y, weights_RN), weights_RN)


def _ranks(values_N: NDArray[Any], weights_RN: Floats) -> Floats:
    """Return every example's rank within each draw, R x N; ties share the mean of theirs."""
    order = np.argsort(values_N, kind="stable")
    sorted_N = values_N[order]
    starts = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
    together = np.add.reduceat(weights_RN[:, order], starts, axis=1)
    shared = np.cumsum(together, axis=1) - together + (together + 1) / 2
    ranks = np.empty_like(weights_RN)
    ranks[:, order] = np.repeat(shared, np.diff(np.r_[starts, len(order)]), axis=1)
    return ranks


def _ratio(over: Floats, under: Floats) -> Floats:
    """Return a quotient, 0 where there is nothing below: as the metrics have it."""
    return np.divide(over, under, out=np.zeros_like(over), where=under > 1e-12)


_METRICS: Mapping[str, Callable[[NDArray[Any], NDArray[Any], Floats], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
}
