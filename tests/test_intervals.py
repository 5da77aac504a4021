"""The bootstrap draws what it says, and its metrics are those of the drawn examples."""

import tracemalloc

import numpy as np
import pytest

from stages.evaluation.intervals import (
    NUM_DRAWS,
    Answered,
    Interval,
    draws,
    retention_intervals,
    scores,
    weighted_metric,
)
from stages.evaluation.metrics import METRICS
from stages.evaluation.predictions import SeedAnswers

RNG = np.random.default_rng


def answers_of(accuracy: float, truth: np.ndarray, seed: int, num_seeds: int = 1) -> SeedAnswers:
    """Seeds of a model that is right about `accuracy` of the time, on two classes."""
    right = RNG(seed).random((num_seeds, len(truth))) < accuracy
    return SeedAnswers(np.where(right, truth, 1 - truth), truth, {})


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [("accuracy", 2), ("f1", 2), ("mcc", 2), ("mcc", 3), ("pearson", 0), ("spearman", 0)],
)
def test_a_weighted_metric_is_the_metric_of_the_drawn_examples(name: str, num_classes: int) -> None:
    rng = RNG(1)
    if num_classes:
        truth, given = rng.integers(0, num_classes, (2, 60))
    else:
        # Rounded, so that there are ties to share ranks.
        truth = rng.normal(size=60).round(1)
        given = (truth + rng.normal(size=60)).round(1).astype(np.float32)
    model = SeedAnswers(given[None], truth, {})
    weights = next(draws(60, rng))[:20]
    found = weighted_metric(name, model, 0, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        drawn = METRICS[name](np.repeat(given, row), np.repeat(truth, row))
        assert value == pytest.approx(drawn, abs=1e-9)


@pytest.mark.parametrize("name", ["f1", "mcc", "pearson"])
def test_answers_that_are_all_alike_score_zero_in_every_draw(name: str) -> None:
    model = SeedAnswers(np.zeros((1, 30), dtype=int), RNG(0).integers(0, 2, 30), {})
    assert weighted_metric(name, model, 0, next(draws(30, RNG(0)))).max() == 0


def test_many_labels_take_little_memory() -> None:
    truth, given = RNG(0).integers(0, 150, (2, 1000))
    model, weights = SeedAnswers(given[None], truth, {}), next(draws(1000, RNG(0)))
    tracemalloc.start()
    for name in ("mcc", "accuracy"):
        weighted_metric(name, model, 0, weights)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_metrics_of_single_answers_are_averaged() -> None:
    model = SeedAnswers(np.array([["a", "b"]]), None, {"f1": np.array([[0.5, 1.0]])})
    weights = np.array([[1.0, 1.0], [2.0, 0.0], [0.0, 2.0]])
    assert scores(model, ("f1",), weights)[:, 0].tolist() == [0.75, 0.5, 1.0]


def test_every_draw_has_as_many_examples_as_there_are() -> None:
    weights = np.concatenate(list(draws(50, RNG(0))))
    assert weights.shape == (NUM_DRAWS, 50)
    assert set(weights.sum(axis=1)) == {50.0}


def test_a_student_that_answers_as_its_teacher_keeps_exactly_everything() -> None:
    truth = RNG(0).integers(0, 2, 200)
    teacher = answers_of(0.9, truth, 1)
    # Paired draws: what the sample does to one it does to the other.
    wrong = SeedAnswers(1 - truth[None], truth, {})
    right = SeedAnswers(truth[None], truth, {})
    alike, unlike = (Answered(t, s, ("accuracy",)) for t, s in ((teacher,) * 2, (right, wrong)))
    whole, by_task = retention_intervals({"rte": alike, "qnli": unlike, "sst2": unlike})
    assert by_task["rte"] == Interval(100.0, 100.0)
    assert by_task["qnli"] == Interval(0.0, 0.0)
    # The mean of 100, 0 and 0 in every draw.
    assert whole is not None
    assert (whole.low, whole.high) == pytest.approx((100 / 3, 100 / 3))


def test_the_interval_is_that_of_the_binomial_where_the_teacher_is_always_right() -> None:
    truth = RNG(0).integers(0, 2, 400)
    teacher = SeedAnswers(truth[None], truth, {})
    student = SeedAnswers(np.where(np.arange(400) < 320, truth, 1 - truth)[None], truth, {})
    whole, _ = retention_intervals({"rte": Answered(teacher, student, ("accuracy",))})
    assert whole is not None
    # 80 % of 400: a standard error of sqrt(0.8 * 0.2 / 400) = 2 points, 1.96 of them each way.
    assert whole.low == pytest.approx(80 - 3.92, abs=0.5)
    assert whole.high == pytest.approx(80 + 3.92, abs=0.5)


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(60):
        truth = RNG(trial).integers(0, 2, 300)
        answered = Answered(
            answers_of(0.9, truth, 1000 + trial),
            answers_of(0.8, truth, 2000 + trial),
            ("accuracy",),
        )
        whole, _ = retention_intervals({"rte": answered}, seed=trial)
        assert whole is not None
        covered += whole.low <= 100 * 0.8 / 0.9 <= whole.high
    # 95 % of 60 is 57; fewer than 52 would happen once in a hundred such tests.
    assert covered >= 52


def test_seeds_that_differ_widen_the_interval() -> None:
    truth = RNG(0).integers(0, 2, 2000)
    teacher = answers_of(0.9, truth, 1, num_seeds=3)
    alike = answers_of(0.8, truth, 2, num_seeds=3)
    rows = [answers_of(accuracy, truth, 3).answers_SN[0] for accuracy in (0.6, 0.8, 0.9)]
    apart = SeedAnswers(np.stack(rows), truth, {})
    widths = []
    for student in (alike, apart):
        whole, _ = retention_intervals({"rte": Answered(teacher, student, ("accuracy",))})
        assert whole is not None
        widths.append(whole.high - whole.low)
    assert widths[1] > 4 * widths[0]


def test_the_mean_of_two_tasks_is_known_better_than_either() -> None:
    truth = RNG(0).integers(0, 2, 300)
    tasks = {
        name: Answered(answers_of(0.9, truth, i), answers_of(0.8, truth, 9 + i), ("accuracy",))
        for i, name in enumerate(("rte", "sst2"))
    }
    whole, by_task = retention_intervals(tasks)
    assert whole is not None
    for interval in by_task.values():
        assert interval is not None
        assert whole.high - whole.low < interval.high - interval.low


def test_the_same_predictions_give_the_same_interval() -> None:
    truth = RNG(0).integers(0, 2, 100)
    tasks = {"rte": Answered(answers_of(0.9, truth, 1), answers_of(0.8, truth, 2), ("accuracy",))}
    assert retention_intervals(tasks) == retention_intervals(tasks)
    assert retention_intervals(tasks, seed=1) != retention_intervals(tasks)


def test_a_teacher_that_knows_nothing_leaves_no_interval() -> None:
    truth = RNG(0).integers(0, 2, 100)
    tasks = {"cola": Answered(answers_of(0.5, truth, 1), answers_of(0.8, truth, 2), ("mcc",))}
    assert retention_intervals(tasks) == (None, {"cola": None})
