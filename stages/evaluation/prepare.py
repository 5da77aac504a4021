"""The `tasks@` stage: the labelled examples of one task, in one form whatever their source.

A derived task is made from data/curated, and one of your own is read from its folder. GLUE, SQuAD
and IMDb are read from the folder `evaluation.task_root` (GLUE's official TSV layout, or Parquet),
else from the hub or `hub_root`.
Splits with hidden labels are taken along where `evaluation.predict_test` asks for them.

Run: python -m stages.evaluation.prepare --task cola --curated data/curated --out data/tasks/cola
"""

import argparse
from pathlib import Path

from stages import params
from stages.command import log, parser_for, run
from stages.evaluation.derived import derive
from stages.evaluation.task_folder import Example, TaskData, write_task
from stages.evaluation.task_sources import read_folder, read_public
from stages.evaluation.tasks import TaskSpec, get_task


def prepare(spec: TaskSpec, curated: Path, settings: params.Params) -> tuple[TaskData, str]:
    """Return a task's examples, and a sentence that says where they are from."""
    if spec.is_own:
        data, source = read_folder(spec, Path(settings.evaluation.own_tasks[spec.name].folder))
        warn_of_shared(spec, data)
        return data, source
    if spec.is_derived:
        return (
            derive(spec.name, curated, settings.seed),
            "made from the corpus, labels true by construction; this is not GLUE",
        )
    return read_public(spec, settings)


def warn_of_shared(spec: TaskSpec, data: TaskData) -> None:
    """Say which of your own validation examples the model will have learned from."""
    learned = {(row.text_a, row.text_b) for row in data.train if isinstance(row, Example)}
    for split, rows in data.validation.items():
        shared = sum(
            (row.text_a, row.text_b) in learned for row in rows if isinstance(row, Example)
        )
        if shared:
            log.warning(
                "task %s: %d of %d examples of %s have their texts in train too: its scores "
                "flatter every model",
                spec.name,
                shared,
                len(rows),
                split,
            )


def main(arguments: argparse.Namespace) -> None:
    """Write the folder of one task."""
    settings = params.load()
    spec = get_task(arguments.task, settings.evaluation.own_tasks)
    data, source = prepare(spec, arguments.curated, settings)
    write_task(spec, data, source, arguments.out)
    splits = {"train": data.train, **data.validation, **data.test}
    counted = ", ".join(f"{len(rows)} {split}" for split, rows in splits.items())
    log.info("task %s: %s -> %s", spec.name, counted, arguments.out)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["curated", "out"])
    parser.add_argument("--task", required=True, help="a name that evaluation.tasks may have")
    run(main, parser)
