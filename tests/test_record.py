"""MLflow gets every number of the summary, under its path there, and the reports' own beside it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from registry_world import write_curve
from report_world import STUDENTS, TASKS, write_reports

from stages.files import read_json
from stages.registry.record import curve_points, deciding_params, report_metrics
from stages.report.reading import load_reports
from stages.report.summary import summarise


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reports(tmp_path_factory.mktemp("run") / "reports")


def numbers(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from numbers(item, f"{path}{key}/")
        elif item is not None:
            yield f"{path}{key}", float(item)


@pytest.fixture(scope="module")
def summary(reports: Path) -> dict[str, Any]:
    return summarise(load_reports(reports, STUDENTS, TASKS, ["distilbert"]), "offline", "mlm_only")


@pytest.fixture(scope="module")
def recorded(reports: Path, summary: dict[str, Any]) -> dict[str, float]:
    return report_metrics(
        "distilbert",
        summary,
        read_json(reports / "students" / "distilbert.json"),
        read_json(reports / "speed.json"),
        read_json(reports / "gate" / "distilbert.json"),
    )


def test_every_number_of_the_summary_is_recorded_under_its_path(
    summary: dict[str, Any], recorded: dict[str, float]
) -> None:
    expected = dict(numbers(summary["models"]["distilbert"]))
    assert {name: recorded.get(name) for name in expected} == expected
    assert {
        "tasks/package/median",
        "tasks/package/metrics/accuracy",
        "tasks/package/retention_interval/low",
        "average/mean_of_tasks",
        "retention",
        "retention_interval/high",
        "speedup",
        "num_parameters",
    } <= set(expected)


def test_numbers_of_other_reports_keep_their_names(recorded: dict[str, float]) -> None:
    assert recorded["heldout/kl"] == 0.75
    assert recorded["device_hours"] == 0.025
    assert recorded["speedup/16"] == 1.5
    assert recorded["gate/passed"] == 1.0
    assert recorded["gate/speedup"] == 1.75


def test_a_number_that_does_not_exist_is_not_recorded(
    reports: Path, summary: dict[str, Any]
) -> None:
    model = summary["models"]["distilbert"] | {"retention": None, "retention_interval": None}
    without = report_metrics(
        "distilbert",
        summary | {"models": {"distilbert": model}},
        read_json(reports / "students" / "distilbert.json"),
        read_json(reports / "speed.json"),
        read_json(reports / "gate" / "distilbert.json"),
    )
    assert not [name for name in without if name.startswith("retention")]
    assert all(isinstance(value, float) for value in without.values())


def test_params_are_those_of_the_lineage_with_defaults_filled_in() -> None:
    resolved = {"seed": 56, "distill": {"temperature": 9.0, "dropout": 0.1}, "gate": {"x": 1}}
    used = {"distill": {"temperature": 2.0}, "students.s": {"teacher_layers": [0, 2]}}
    assert deciding_params(resolved, used) == {
        "distill.dropout": "0.1",
        "distill.temperature": "2.0",
        "students.s.teacher_layers": "[0, 2]",
    }


def test_empty_cells_of_a_curve_are_no_points(tmp_path: Path) -> None:
    write_curve(tmp_path / "c.csv", num_steps=1)
    points = {point.name: point.value for point in curve_points(tmp_path / "c.csv")}
    # mlm is empty.
    assert points == {
        "curve/loss": 8.5,
        "curve/ce": 1.0,
        "curve/cos": 0.1,
        "curve/learning_rate": 0.0005,
        "curve/tokens_per_second": 200.0,
    }
