"""What an MLflow run says about a student: parameters, metrics and curve, from plain files.

Pure: reads no store and imports no mlflow. A number has the name it has in its report.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.tracking.live import CURVE

COST = (
    "num_steps",
    "num_tokens",
    "seconds",
    "device_hours",
    "num_attempts",
    "energy_joules",
    "tokens_per_second",
)
"""Numbers of a training report; one that was not measured is absent from it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a curve."""

    name: str
    step: int
    value: float


def deciding_params(settings: Mapping[str, Any], used: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that decide a student, flat, as text.

    MLflow never changes a parameter, so a run may only carry what its lineage fixes: evaluation
    settings may change and the student stay.

    Args:
        settings: all of params.yaml with its defaults filled in.
        used: what dvc.lock says the upstream stages took; a key may name a section. It wins, for
            params.yaml may have been edited since.
    """
    chosen = {
        key: value
        for key, value in _flat(settings)
        if any(key == section or key.startswith(f"{section}.") for section in used)
    }
    chosen.update(_flat(used))
    return {key: _text(value) for key, value in sorted(chosen.items())}


def report_metrics(
    student: str,
    summary: Mapping[str, Any],
    training: Mapping[str, Any],
    speed: Mapping[str, Any],
    gate: Mapping[str, Any],
) -> dict[str, float]:
    """Return every number that the run records once.

    What is below models.<student> in the summary is recorded under its path there, with slashes:
    tasks/cola/median, average/macro9_dev, retention_interval/low.

    Args:
        student: its name.
        summary: reports/summary.json, for the scores, the averages and the retention in percent.
        training: reports/students/<student>.json, for the losses on held-out text and the cost.
        speed: reports/speed.json.
        gate: reports/gate/<student>.json, for the values that were judged.
    """
    model = summary["models"][student]
    ratios = speed["ratios"][student]
    numbers: dict[str, Any] = {
        **dict(_flat(model, separator="/")),
        **{f"heldout/{name}": value for name, value in training["heldout"].items()},
        **{name: training.get(name) for name in COST},
        **{f"speedup/{batch}": value for batch, value in ratios["speedup"].items()},
        "parameter_fraction": ratios["parameter_fraction"],
        "gate/passed": gate["passed"],
        **{f"gate/{check['name']}": check["value"] for check in gate["checks"]},
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}


def curve_points(path: Path) -> Iterator[Point]:
    """Yield the points of reports/curves/<student>.csv; an empty cell is no point."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, cell in row.items():
                if cell:
                    yield Point(CURVE + name, step, float(cell))


def _flat(
    settings: Mapping[str, Any], prefix: str = "", separator: str = "."
) -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}{separator}", separator)
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
