"""A task's folder, data/tasks/<task>/: one Parquet file per split, and task.json.

Examples have columns text_a, text_b (null for single texts) and label. Questions on a text have id,
text_a (the question), text_b (the text), answers and starts: the accepted answers, and the
character at which each begins in the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import DataError
from stages.evaluation.tasks import TaskSpec
from stages.files import atomic_output, write_json

HIDDEN = -1
"""The label of an example whose label is not public, as the hub writes it; of your own tasks' all
are there, and this is a number like any other."""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text, or pair of texts."""

    text_a: str
    text_b: str | None
    label: int | float


@dataclass(frozen=True, slots=True)
class Question:
    """One question on a text, with every answer that is accepted."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


Rows: TypeAlias = Sequence[Example | Question]


@dataclass(frozen=True, slots=True)
class TaskData:
    """Everything a task's folder holds."""

    labels: tuple[str, ...] | None
    train: Rows
    validation: dict[str, Rows]
    test: dict[str, Rows] = field(default_factory=dict)
    """Splits that are to be predicted; their labels are usually hidden."""


def write_task(spec: TaskSpec, data: TaskData, source: str, out: Path) -> None:
    """Write a task's folder, whole or not at all; `source` is a sentence for people.

    Raises:
        DataError: there is nothing to learn from or to score, or an example for it has no label.
    """
    for split, rows in {"train": data.train, **data.validation}.items():
        if not rows:
            raise DataError(f"task {spec.name}: split {split} has no examples ({source})")
        hidden = sum(isinstance(row, Example) and row.label == HIDDEN for row in rows)
        if hidden and not spec.is_own:
            raise DataError(
                f"task {spec.name}: {hidden} of {len(rows)} examples of split {split} have no "
                f"label (they have {HIDDEN}); labels may be hidden in test splits only"
            )
    description = {
        "name": spec.name,
        "title": spec.title,
        "kind": spec.kind,
        "labels": None if data.labels is None else list(data.labels),
        "metrics": list(spec.metrics),
        "scored_by": list(spec.scored_by),
        "is_glue": spec.is_glue,
        "is_derived": spec.is_derived,
        "pair": spec.pair,
        "validation_splits": list(data.validation),
        "test_splits": list(data.test),
        "num_train": len(data.train),
        "num_validation": {split: len(rows) for split, rows in data.validation.items()},
        "num_test": {split: len(rows) for split, rows in data.test.items()},
        "source": source,
    }
    with atomic_output(out) as folder:
        folder.mkdir()
        for split, rows in {"train": data.train, **data.validation, **data.test}.items():
            pq.write_table(_table(spec, rows), folder / f"{split}.parquet")
        write_json(folder / "task.json", description)


def _table(spec: TaskSpec, rows: Rows) -> pa.Table:
    examples = [row for row in rows if isinstance(row, Example)]
    questions = [row for row in rows if isinstance(row, Question)]
    if spec.kind == "span":
        return pa.table(
            {
                "id": pa.array([row.id for row in questions], pa.string()),
                "text_a": pa.array([row.question for row in questions], pa.string()),
                "text_b": pa.array([row.context for row in questions], pa.string()),
                "answers": pa.array([list(row.answers) for row in questions], LIST_OF_TEXTS),
                "starts": pa.array([list(row.starts) for row in questions], LIST_OF_PLACES),
            }
        )
    label_type = pa.float64() if spec.kind == "regression" else pa.int64()
    return pa.table(
        {
            "text_a": pa.array([row.text_a for row in examples], pa.string()),
            "text_b": pa.array([row.text_b for row in examples], pa.string()),
            "label": pa.array([row.label for row in examples], label_type),
        }
    )


LIST_OF_TEXTS = pa.list_(pa.string())
LIST_OF_PLACES = pa.list_(pa.int32())
