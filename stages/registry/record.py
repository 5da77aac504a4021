"""What MLflow is told of a student: parameters, metrics and curve, read from plain files.

Knows no store and imports no mlflow. A number has the name it has in its report.
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import params
from stages.errors import DataError
from stages.export.card import CARD, with_scores
from stages.files import read_json
from stages.lineage import GitState, Lineage, git_state, lineage_of
from stages.registry.versions import export_digest
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


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that goes into the store, read and checked before the store is touched."""

    settings: params.Params
    lineage: Lineage
    git: GitState
    export: Path
    export_sha256: str
    gate: dict[str, Any]
    training: dict[str, Any]
    metrics: dict[str, float]
    curve: Path
    card: str | None
    """The model card with what the student scored; None where the export has none."""
    files: tuple[Path, ...]
    """Artifacts of the run beside it, those that exist."""

    @property
    def student(self) -> str:
        """The student's name."""
        return self.lineage.student


def collect(settings: params.Params, student: str, reports: Path, export: Path) -> Record:
    """Read what is to be recorded.

    Raises:
        DataError: a file is missing, or the gate judged other files than those exported now.
    """
    lineage = lineage_of(student)
    gate = read_json(reports / "gate" / f"{student}.json")
    export_sha256 = export_digest(export)
    if gate["export_sha256"] != export_sha256:
        raise DataError(
            f"{reports}/gate/{student}.json judged other files than {export} holds now; "
            f"run: dvc repro gate@{student}"
        )
    training = read_json(reports / "students" / f"{student}.json")
    summary = read_json(reports / "summary.json")
    speed = read_json(reports / "speed.json")
    files = (
        reports / "report.html",
        reports / "summary.json",
        params.PARAMS,
    )
    card = export / CARD
    return Record(
        settings=settings,
        lineage=lineage,
        git=git_state(),
        export=export,
        export_sha256=export_sha256,
        gate=gate,
        training=training,
        metrics=report_metrics(student, summary, training, speed, gate),
        curve=reports / "curves" / f"{student}.csv",
        card=with_scores(card.read_text("utf-8"), student, summary) if card.is_file() else None,
        files=tuple(path for path in files if path.is_file()),
    )


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
