"""The `tasks@` stage: the labelled examples of one task, in one form whatever their source.

A derived task is made from data/curated; a GLUE task is read from the hub, or from `hub_root`.
Writes train.parquet, one Parquet file per validation split (columns text_a, text_b or null, label)
and task.json. GLUE's test labels are hidden, so its test splits are not used.

Run: python -m stages.evaluation.prepare --task cola --curated data/curated --out data/tasks/cola
"""

import argparse
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.evaluation.derived import Example, TaskData, derive
from stages.evaluation.tasks import TaskSpec, check_labels, get_task
from stages.files import atomic_output, write_json

GLUE = "nyu-mll/glue"


def prepare(spec: TaskSpec, curated: Path, settings: params.Params) -> tuple[TaskData, str]:
    """Return a task's examples, and a sentence that says where they are from."""
    if spec.is_glue:
        return read_glue(spec, settings), f"GLUE {spec.name}, dataset {GLUE} of the hub"
    return (
        derive(spec.name, curated, settings.seed),
        "made from the corpus, labels true by construction; this is not GLUE",
    )


def read_glue(spec: TaskSpec, settings: params.Params) -> TaskData:
    """Read a GLUE task with `datasets`, from the hub or from the folder `hub_root`.

    Raises:
        DataError: the data cannot be had, or its labels are not the task's.
    """
    if settings.hub_root is not None:
        # Read when datasets is imported: a local folder must not wait for a network.
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    place = settings.hub_path(GLUE)
    try:
        loaded = datasets.load_dataset(place, spec.name)
    except (OSError, ValueError) as error:
        raise DataError(
            f"task {spec.name}: {place} cannot be read ({error}); set hub_root in params.yaml to a "
            "folder in the hub's layout, or run where the hub can be reached"
        ) from error
    label = loaded["train"].features["label"]
    check_labels(spec, getattr(label, "names", None))
    return TaskData(
        spec.labels,
        _examples(spec, loaded["train"]),
        {split: _examples(spec, loaded[split]) for split in spec.validation_splits},
    )


def write_task(spec: TaskSpec, data: TaskData, source: str, out: Path) -> None:
    """Write a task's folder, whole or not at all."""
    description = {
        "name": spec.name,
        "title": spec.title,
        "kind": spec.kind,
        "labels": None if data.labels is None else list(data.labels),
        "metrics": list(spec.metrics),
        "is_glue": spec.is_glue,
        "pair": spec.pair,
        "validation_splits": list(spec.validation_splits),
        "num_train": len(data.train),
        "num_validation": {split: len(rows) for split, rows in data.validation.items()},
        "source": source,
    }
    with atomic_output(out) as folder:
        folder.mkdir()
        for split, examples in {"train": data.train, **data.validation}.items():
            pq.write_table(_table(spec, examples), folder / f"{split}.parquet")
        write_json(folder / "task.json", description)


def _examples(spec: TaskSpec, rows: Any) -> list[Example]:
    first = rows[spec.columns[0]]
    second = rows[spec.columns[1]] if spec.pair else [None] * len(rows)
    return [Example(a, b, label) for a, b, label in zip(first, second, rows["label"], strict=True)]


def _table(spec: TaskSpec, examples: list[Example]) -> pa.Table:
    label_type = pa.float64() if spec.kind == "regression" else pa.int64()
    return pa.table(
        {
            "text_a": pa.array([example.text_a for example in examples], pa.string()),
            "text_b": pa.array([example.text_b for example in examples], pa.string()),
            "label": pa.array([example.label for example in examples], label_type),
        }
    )


def main(arguments: argparse.Namespace) -> None:
    """Write the folder of one task."""
    settings = params.load()
    spec = get_task(arguments.task)
    data, source = prepare(spec, arguments.curated, settings)
    write_task(spec, data, source, arguments.out)
    validation = ", ".join(f"{len(rows)} {split}" for split, rows in data.validation.items())
    log.info("task %s: %d train, %s -> %s", spec.name, len(data.train), validation, arguments.out)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["curated", "out"])
    parser.add_argument("--task", required=True, help="a name in stages/evaluation/tasks.py")
    run(main, parser)
