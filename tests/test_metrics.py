"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest

from stages.evaluation.metrics import METRICS, headline, score
from stages.evaluation.tasks import get_task

# Truth 1 1 1 0 0, predicted 1 0 1 1 0: true positives 2, false 1; true negatives 1, false 1.
TRUE, PREDICTED = [1, 1, 1, 0, 0], [1, 0, 1, 1, 0]


def test_mcc_by_hand():
    # (2*1 - 1*1) / sqrt((2+1)(2+1)(1+1)(1+1)) = 1/6
    assert score(["mcc"], PREDICTED, TRUE)["mcc"] == pytest.approx(1 / 6)


def test_mcc_of_three_classes_by_hand():
    # Truth 0 1 2 2, predicted 0 1 2 1: (right * n - sum t_k p_k) / sqrt((n^2 - sum p_k^2)(n^2 -
    # sum t_k^2)) = (3*4 - (1*1 + 1*2 + 2*1)) / sqrt((16 - 6)(16 - 6)) = 7/10
    assert score(["mcc"], [0, 1, 2, 1], [0, 1, 2, 2])["mcc"] == pytest.approx(0.7)


def test_accuracy_and_f1_by_hand():
    # 3 of 5 right; F1 = 2*2 / (2*2 + 1 + 1)
    assert score(["accuracy", "f1"], PREDICTED, TRUE) == pytest.approx(
        {"accuracy": 0.6, "f1": 2 / 3}
    )


def test_f1_is_that_of_label_one():
    # Of label 0: true 1, false positive 1, false negative 1, so F1 of label 0 would be 1/2.
    swapped = score(["f1"], [1 - p for p in PREDICTED], [1 - t for t in TRUE])
    assert swapped["f1"] == pytest.approx(1 / 2)


def test_pearson_by_hand():
    # Deviations (-1 0 1) and (-4/3 -1/3 5/3): 3 / sqrt(2 * 14/3)
    found = score(["pearson"], [1.0, 2.0, 3.0], [2.0, 3.0, 5.0])["pearson"]
    assert found == pytest.approx(3 / math.sqrt(28 / 3))


def test_spearman_shares_ranks_between_ties():
    # Ranks (1.5 1.5 3 4) and (1 2 3 4): covariance sum 4.5 over sqrt(4.5 * 5)
    found = score(["spearman"], [1.0, 1.0, 2.0, 9.0], [1.0, 2.0, 3.0, 4.0])["spearman"]
    assert found == pytest.approx(4.5 / math.sqrt(22.5))


def test_spearman_of_a_monotone_curve_is_one():
    assert score(["spearman"], [1, 2, 3, 4], [1, 10, 100, 1000])["spearman"] == pytest.approx(1)


@pytest.mark.parametrize("metric", ["mcc", "f1", "pearson", "spearman"])
@pytest.mark.parametrize("references", [[0, 1, 0, 1], [0, 0, 0, 0]])
def test_predictions_of_one_class_score_zero_and_never_nan(metric: str, references: list[int]):
    assert score([metric], [0, 0, 0, 0], references) == {metric: 0.0}
    # And where the truth is all alike.
    assert score([metric], references, [0, 0, 0, 0]) == {metric: 0.0}


def test_predictions_that_hardly_differ_in_float32_still_correlate():
    predictions = np.array([1.0, 1.0 + 2e-7, 1.0 + 4e-7], dtype=np.float32)
    assert score(["pearson"], predictions, [0, 1, 2])["pearson"] > 0.9


def test_a_task_is_scored_on_its_own_metrics():
    assert list(score(get_task("mrpc"), PREDICTED, TRUE)) == ["accuracy", "f1"]
    assert list(score(get_task("cola"), PREDICTED, TRUE)) == ["mcc"]


def test_every_metric_of_the_task_table_exists():
    from stages.evaluation.tasks import TASKS

    known = {metric for spec in TASKS.values() if spec.kind != "span" for metric in spec.metrics}
    assert known == set(METRICS)


def test_a_score_is_the_mean_of_the_metrics_out_of_100():
    metrics = {"accuracy": 0.6, "f1": 0.8, "exact_match": 0.1}
    assert headline(metrics, ["accuracy", "f1"]) == pytest.approx(70)


def test_majority_class_of_wnli_gives_its_published_56_34():
    # 71 validation pairs, 40 of them not_entailment.
    truth = [0] * 40 + [1] * 31
    assert round(100 * score(get_task("wnli"), [0] * 71, truth)["accuracy"], 2) == 56.34


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"predictions \(2,\) and references \(1,\)"):
        score(["accuracy"], [0, 1], [0])
