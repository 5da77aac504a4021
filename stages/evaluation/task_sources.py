"""A task's examples from where others keep them: a folder of files, or the hub and its copy."""

import os
from pathlib import Path
from typing import Any

from stages import params
from stages.errors import DataError
from stages.evaluation import official_tsv, task_parquet
from stages.evaluation.task_folder import Rows, TaskData
from stages.evaluation.tasks import AX, TaskSpec


def read_public(spec: TaskSpec, settings: params.Params) -> tuple[TaskData, str]:
    """Return a published task's examples, and a sentence that says where they are from."""
    test_splits = spec.test_splits if settings.evaluation.predict_test else ()
    if settings.evaluation.task_root is not None:
        return read_folder(spec, Path(settings.evaluation.task_root), test_splits)
    return (
        read_hub(spec, settings, test_splits),
        f"{spec.title}, dataset {spec.dataset} of the hub",
    )


def read_folder(
    spec: TaskSpec, root: Path, test_splits: tuple[str, ...] = ()
) -> tuple[TaskData, str]:
    """Read a task from a folder of official TSV or Parquet files.

    Raises:
        DataError: the folder has the task in neither form, or a file is not as it must be.
    """
    for module, form in ((official_tsv, "TSV"), (task_parquet, "Parquet")):
        if module.has_task(root, spec):
            data = TaskData(
                spec.labels,
                module.read_split(root, spec, "train"),
                {split: module.read_split(root, spec, split) for split in spec.validation_splits},
                {split: module.read_split(root, spec, split) for split in test_splits},
            )
            return data, f"{spec.title}, {form} files of a folder"
    tsv = official_tsv.path_of(root, spec, "train")
    wanted = [str(tsv.relative_to(root))] if tsv else []
    wanted += task_parquet.names_of(spec, "train")
    key = f"own_tasks.{spec.name}.folder" if spec.is_own else "task_root"
    raise DataError(f"task {spec.name}: evaluation.{key} = {root} has none of {', '.join(wanted)}")


def read_hub(
    spec: TaskSpec, settings: params.Params, test_splits: tuple[str, ...] = ()
) -> TaskData:
    """Read a task with `datasets`, from the hub or from the folder `hub_root`.

    Raises:
        DataError: the data cannot be had, or its labels are not the task's.
    """
    if settings.hub_root is not None:
        # Read when datasets is imported: a local folder must not wait for a network.
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    loaded = dict(_load(spec, settings, spec.config or spec.name))
    if AX in test_splits:
        loaded[AX] = _load(spec, settings, AX)["test"]
    wanted = ["train", *spec.validation_splits, *test_splits]
    missing = [split for split in wanted if split not in loaded]
    if missing:
        raise DataError(
            f"task {spec.name}: no split {', '.join(missing)} in "
            f"{settings.hub_path(str(spec.dataset))}, which has: {', '.join(loaded)}"
            + ("; evaluation.predict_test needs it" if set(missing) & set(test_splits) else "")
        )
    return TaskData(
        spec.labels,
        _rows(spec, loaded["train"]),
        {split: _rows(spec, loaded[split]) for split in spec.validation_splits},
        {split: _rows(spec, loaded[split]) for split in test_splits},
    )


def _load(spec: TaskSpec, settings: params.Params, config: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    place = settings.hub_path(str(spec.dataset))
    try:
        return datasets.load_dataset(place, config)
    except (OSError, ValueError) as error:
        raise DataError(
            f"task {spec.name}: {place} ({config}) cannot be read ({error}); set hub_root in "
            "params.yaml to a folder in the hub's layout, or evaluation.task_root to a folder of "
            "files, or run where the hub can be reached"
        ) from error


def _rows(spec: TaskSpec, rows: Any) -> Rows:
    names = getattr(rows.features.get("label"), "names", None)
    table = rows.with_format("arrow")[:]
    return task_parquet.rows_of(f"dataset {spec.dataset}", table, spec, names)
