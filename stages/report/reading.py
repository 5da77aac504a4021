"""The reports of the other stages, loaded: what a page and its summary are made from.

Training, fine-tuning and speed must be there, or there is nothing to report. The corpus, the
expectations, curves, exports and gates are shown when they are there.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.evaluation.predictions import SeedAnswers, read_predictions
from stages.files import read_json
from stages.params import TEACHER

Json = Mapping[str, Any]
NOT_LOSSES = {"step", "learning_rate"}
"""Columns of a training curve that are measured beside the losses."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What a training loop wrote while it ran; a cell that is no number is None."""

    steps: list[float]
    terms: dict[str, list[float | None]]


@dataclass(frozen=True, slots=True)
class Reports:
    """One run's reports; models are in the order of params.yaml, the teacher first."""

    teacher: Json
    students: dict[str, Json]
    finetune: dict[str, dict[str, Json]]
    """By model, then by task."""
    answers: dict[str, dict[str, SeedAnswers | None]]
    """What was answered to the headline split, by model, then by task."""
    speed: Json
    corpus: Json | None
    expectations: Json | None
    exports: dict[str, Json]
    gates: dict[str, Json]
    curves: dict[str, Curve]

    @property
    def models(self) -> list[str]:
        """The models that were measured, the teacher first."""
        return list(self.finetune)

    @property
    def files(self) -> dict[str, Json]:
        """Every report by its path below reports/."""
        found: dict[str, Json | None] = {
            "teacher.json": self.teacher,
            "speed.json": self.speed,
            "corpus.json": self.corpus,
            "expectations.json": self.expectations,
        }
        for folder, group in (
            ("students", self.students),
            ("export", self.exports),
            ("gate", self.gates),
        ):
            found |= {f"{folder}/{name}.json": report for name, report in group.items()}
        for model, tasks in self.finetune.items():
            found |= {f"finetune/{model}/{task}.json": report for task, report in tasks.items()}
        return {path: report for path, report in found.items() if report is not None}


def load_reports(
    folder: Path, students: Sequence[str], tasks: Sequence[str], exported: Sequence[str]
) -> Reports:
    """Read the reports of the models and tasks named, and of no others left by earlier settings.

    Raises:
        DataError: a report that the page cannot do without is absent; the message names it.
    """
    models = [TEACHER, *students]
    finetune = {
        model: {task: read_json(folder / "finetune" / model / f"{task}.json") for task in tasks}
        for model in models
    }
    return Reports(
        teacher=read_json(folder / "teacher.json"),
        students={name: read_json(folder / "students" / f"{name}.json") for name in students},
        finetune=finetune,
        answers={
            model: {
                task: read_predictions(
                    folder / "predictions" / model / f"{task}.parquet",
                    next(iter(report["num_validation"])),
                )
                for task, report in reports.items()
            }
            for model, reports in finetune.items()
        },
        speed=read_json(folder / "speed.json"),
        corpus=_optional(folder / "corpus.json"),
        expectations=_optional(folder / "expectations.json"),
        exports=_present(folder / "export", exported),
        gates=_present(folder / "gate", exported),
        curves={
            model: read_curve(path)
            for model in models
            if (path := folder / "curves" / f"{model}.csv").exists()
        },
    )


def read_curve(path: Path) -> Curve:
    """Read a training curve; columns that are not losses are left out."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    terms = [name for name in (rows[0] if rows else ()) if name not in NOT_LOSSES]
    return Curve(
        steps=[float(row["step"]) for row in rows],
        terms={name: [_number(row[name]) for row in rows] for name in terms},
    )


def smallest_batch(by_batch: Mapping[str, Any]) -> str:
    """Return the key of the smallest batch: what one waiting user sees."""
    return min(by_batch, key=int)


def _number(cell: str) -> float | None:
    """Return a cell's value; an empty cell is a term that was not computed."""
    value = float(cell) if cell else math.nan
    return value if math.isfinite(value) else None


def _optional(path: Path) -> Json | None:
    return read_json(path) if path.exists() else None


def _present(folder: Path, names: Sequence[str]) -> dict[str, Json]:
    return {name: report for name in names if (report := _optional(folder / f"{name}.json"))}
