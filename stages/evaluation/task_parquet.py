"""Tasks from a folder of Parquet files: cola/train.parquet, mnli/validation_matched.parquet ...

A split may be in pieces, as the hub names them: cola/train-00000-of-00002.parquet. Columns are the
hub's (docs/evaluation.md). Labels are ids in the task table's order, or the table's names. A task
of one's own has its columns and labels from the settings, and a folder to itself.
"""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import DataError
from stages.evaluation.task_folder import HIDDEN, Example, Question, Rows
from stages.evaluation.tasks import AX, TaskSpec, check_labels


def has_task(root: Path, spec: TaskSpec) -> bool:
    """Say whether `root` holds Parquet files of the task's train split."""
    return bool(_files(root, spec, "train"))


def read_split(root: Path, spec: TaskSpec, split: str) -> Rows:
    """Return a split's rows in their order.

    Raises:
        DataError: no file, a column missing or a label that is not the task's; the message names
            the file, the row, the value and what is allowed.
    """
    files = _files(root, spec, split)
    if not files:
        raise DataError(f"{root} has no {names_of(spec, split)[0]}; task {spec.name} needs it")
    return [row for file in files for row in _rows(file, spec)]


def names_of(spec: TaskSpec, split: str) -> list[str]:
    """Return the patterns, seen from the root, that a split's files may match."""
    folder = "" if spec.is_own else f"{AX if split == AX else spec.name}/"
    name = "test" if split == AX else split
    return [f"{folder}{name}.parquet", f"{folder}{name}-*-of-*.parquet"]


def _files(root: Path, spec: TaskSpec, split: str) -> list[Path]:
    whole, pieces = names_of(spec, split)
    return [root / whole] if (root / whole).is_file() else sorted(root.glob(pieces))


def _rows(path: Path, spec: TaskSpec) -> Rows:
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path} is not Parquet ({error})") from error
    return rows_of(path, table, spec, _declared_names(table))


def rows_of(where: object, table: pa.Table, spec: TaskSpec, names: list[str] | None) -> Rows:
    """Return a table's rows as a task's examples.

    Args:
        where: what messages name.
        table: the hub's columns.
        spec: the task.
        names: the label names that the data declares, which must be the task's in its order; None
            where it declares none.
    """
    wanted = ["id", *spec.columns, "answers"] if spec.kind == "span" else [*spec.columns, "label"]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(missing)}; it has: {', '.join(table.column_names)}"
        )
    if spec.kind == "span":
        return _questions(where, table.select(wanted))
    if names is not None:
        check_labels(spec, names)
    firsts = _texts(where, table, spec.columns[0])
    seconds = _texts(where, table, spec.columns[1]) if spec.pair else [None] * len(firsts)
    labels = table["label"].to_pylist()
    return [
        Example(a, b, _label(where, number, label, spec))
        for number, (a, b, label) in enumerate(zip(firsts, seconds, labels, strict=True))
    ]


def _texts(where: object, table: pa.Table, name: str) -> list[str]:
    texts: list[str] = table[name].to_pylist()
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{where}, row {number}: {name} = {text!r} must be a text")
    return texts


def _questions(where: object, table: pa.Table) -> list[Question]:
    found = []
    for number, row in enumerate(table.to_pylist()):
        answers = row["answers"]
        question = Question(
            row["id"],
            row["question"],
            row["context"],
            tuple(answers["text"]),
            tuple(answers["answer_start"]),
        )
        if not question.answers:
            raise DataError(
                f"{where}, row {number}: question {question.id} has no answer; SQuAD 1.1 is read "
                "here, in which every question has one"
            )
        for text, start in zip(question.answers, question.starts, strict=True):
            if question.context[start : start + len(text)] != text:
                raise DataError(
                    f"{where}, row {number}: answer '{text}' of question {question.id} is not at "
                    f"character {start} of its context"
                )
        found.append(question)
    return found


def _declared_names(table: pa.Table) -> list[str] | None:
    """Return the label names that the hub writes into a file's metadata, or None."""
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    label: dict[str, Any] = json.loads(metadata)["info"]["features"].get("label", {})
    return label.get("names")


def _label(where: object, number: int, label: Any, spec: TaskSpec) -> int | float:
    # The hub hides labels so; among your own numbers, -1 is one like any other.
    if not spec.is_own and (label is None or label == HIDDEN):
        return HIDDEN
    if spec.kind == "regression" and isinstance(label, int | float) and math.isfinite(label):
        return float(label)
    labels = spec.labels or ()
    if label in labels:
        return labels.index(label)
    if str(label) in labels and labels.index(str(label)) != label:
        raise DataError(
            f"{where}, row {number}: label {label!r} is read as an id, and as a name it has "
            f"another, of {labels}: write names as texts"
        )
    if isinstance(label, int) and 0 <= label < len(labels):
        return int(label)
    allowed = "a number" if spec.labels is None else f"0 to {len(labels) - 1}, or {labels}"
    raise DataError(f"{where}, row {number}: label {label!r} must be {allowed}")
