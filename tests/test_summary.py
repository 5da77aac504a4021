"""The summary against numbers worked out by hand from tests/report_world.py."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_world import STUDENTS, TASKS, put, spread, write_reports

from stages.errors import DataError
from stages.evaluation.predictions import Predictions, table_of, write_predictions
from stages.report.reading import load_reports
from stages.report.summary import retention, summarise


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return write_reports(tmp_path / "reports")


def summary_of(folder: Path, tasks: list[str] = TASKS) -> dict[str, Any]:
    loaded = load_reports(folder, STUDENTS, tasks, ["distilbert"])
    return summarise(loaded, "offline", "mlm_only")


def test_scores_are_the_medians_with_the_smallest_and_the_largest(reports: Path) -> None:
    tasks = summary_of(reports)["models"]["teacher"]["tasks"]
    spread = {
        task: [score[key] for key in ("median", "min", "max")] for task, score in tasks.items()
    }
    assert spread == {"acceptability": [50.0, 40.0, 52.0], "package": [80.0, 80.0, 84.0]}
    assert tasks["package"]["metrics"] == {"accuracy": 0.8}


def test_retention_is_the_mean_of_the_ratios_of_medians(reports: Path) -> None:
    models = summary_of(reports)["models"]
    # (45/50 + 76/80) / 2 = (0.9 + 0.95) / 2; a ratio of means would be 121/130 = 93.08.
    assert models["distilbert"]["retention"] == pytest.approx(92.5)
    # (30/50 + 64/80) / 2
    assert models["mlm_only"]["retention"] == pytest.approx(70.0)
    assert models["teacher"]["retention"] == pytest.approx(100.0)


def test_retention_has_an_interval_and_every_task_its_own(reports: Path) -> None:
    summary = summary_of(reports)
    assert summary["interval"]["level"] == 0.95
    student = summary["models"]["distilbert"]
    assert student["tasks"]["package"]["retention"] == pytest.approx(95.0)
    for measured in (student, *student["tasks"].values()):
        interval = measured["retention_interval"]
        assert interval["low"] < measured["retention"] < interval["high"]
        # 400 examples and seeds that are ten points apart.
        assert 2 < interval["high"] - interval["low"] < 60
    assert summary["models"]["teacher"]["retention_interval"] is None


def test_without_a_models_answers_there_is_no_interval(reports: Path) -> None:
    (reports / "predictions" / "mlm_only" / "package.parquet").unlink()
    models = summary_of(reports)["models"]
    assert models["mlm_only"]["retention_interval"] is None
    assert models["mlm_only"]["tasks"]["acceptability"]["retention_interval"] is None
    assert models["distilbert"]["retention_interval"] is not None


def test_answers_to_different_examples_are_not_compared(reports: Path) -> None:
    path = reports / "predictions" / "mlm_only" / "package.parquet"
    truth = np.zeros(10, dtype=int)
    write_predictions([table_of(1, {"validation": Predictions(truth, truth)})], path)
    with pytest.raises(
        DataError, match="mlm_only and the teacher answered different examples of p"
    ):
        summary_of(reports)
    seeds = [table_of(n, {"validation": Predictions(truth[:n], truth[:n])}) for n in (9, 10)]
    write_predictions(seeds, path)
    with pytest.raises(DataError, match=r"package.parquet: seeds answered different numbers"):
        summary_of(reports)


@pytest.mark.parametrize("teacher_score", [0.0, -3.0])
def test_retention_of_a_teacher_that_knows_nothing_does_not_exist(teacher_score: float) -> None:
    assert retention({"a": 50.0}, {"a": teacher_score}) is None


def test_the_mean_of_derived_tasks_is_not_called_a_glue_average(reports: Path) -> None:
    summary = summary_of(reports)
    assert summary["average_convention"] == "mean_of_tasks"
    # (45 + 76) / 2
    assert summary["models"]["distilbert"]["average"] == {"mean_of_tasks": 60.5}
    assert [task["is_glue"] for task in summary["tasks"]] == [False, False]


def test_nine_glue_tasks_have_the_conventions_whose_tasks_are_all_there(reports: Path) -> None:
    metrics = {
        "cola": ["mcc"],
        "sst2": ["accuracy"],
        "mrpc": ["accuracy", "f1"],
        "stsb": ["pearson", "spearman"],
        "qqp": ["accuracy", "f1"],
        "mnli": ["accuracy"],
        "qnli": ["accuracy"],
        "rte": ["accuracy"],
        "wnli": ["accuracy"],
    }
    for model in ("teacher", *STUDENTS):
        for i, (task, names) in enumerate(metrics.items()):
            report = json.loads((reports / "finetune" / model / "package.json").read_text())
            value = 0.5 + i / 100
            report |= {"title": task, "is_glue": True, "score": spread([100 * value] * 3)}
            report["metrics"] = {name: spread([value] * 3) for name in names}
            put(reports / "finetune" / model / f"{task}.json", report)
    summary = summary_of(reports, list(metrics))
    # 50..58 average to 54 with WNLI; 50..57 to 53.5 without. MNLI-mm is absent: no other one.
    assert summary["models"]["teacher"]["average"] == pytest.approx(
        {"macro9_dev": 54.0, "macro8_dev": 53.5}
    )
    assert summary["average_convention"] == "macro9_dev"


def test_the_speedup_is_that_of_the_smallest_batch(reports: Path) -> None:
    models = summary_of(reports)["models"]
    assert models["distilbert"]["speedup"] == 1.75
    assert models["teacher"]["speedup"] == 1.0


def test_size_divergence_and_verdict_are_copied(reports: Path) -> None:
    summary = summary_of(reports)
    assert summary["models"]["distilbert"]["num_parameters"] == 11_000_000
    assert summary["models"]["distilbert"]["weights_megabytes"] == 44.0
    assert summary["models"]["distilbert"]["heldout_kl"] == 0.75
    assert summary["models"]["teacher"]["heldout_kl"] is None
    assert summary["models"]["teacher"]["finetune_seconds"] == 2 * 30.0
    assert summary["gate"] == {"distilbert": True}
    assert summary["baseline"] == "mlm_only"
    assert summary["profile"] == "offline"


def test_reports_of_models_no_longer_in_the_settings_are_left_out(reports: Path) -> None:
    stale = json.loads((reports / "finetune" / "teacher" / "package.json").read_text())
    put(reports / "finetune" / "earlier" / "package.json", stale)
    assert list(summary_of(reports)["models"]) == ["teacher", *STUDENTS]


def test_an_absent_score_is_an_error_that_names_the_file(reports: Path) -> None:
    (reports / "finetune" / "mlm_only" / "package.json").unlink()
    with pytest.raises(DataError, match=r"finetune/mlm_only/package.json does not exist"):
        summary_of(reports)
