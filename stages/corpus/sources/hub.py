"""Rows of a data set on the hub, or in a local folder with the hub's layout."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.errors import DataError


def stream(dataset: str, config: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a data set's train split, without downloading it as a whole first.

    Raises:
        DataError: the data set is not there, cannot be reached, or has not these columns.
    """
    is_local = Path(dataset).is_absolute() or dataset.startswith(".")
    if is_local and not Path(dataset).is_dir():
        raise DataError(
            f"{dataset} does not exist; put the data set there, or set hub_root in params.yaml "
            "to a folder that holds it (null reads from the hub)"
        )
    if is_local:
        # Read when `datasets` is imported: a local folder never asks the network.
        os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import load_dataset

    try:
        for row in load_dataset(dataset, config, split="train", streaming=True):
            if missing := [column for column in columns if column not in row]:
                raise DataError(
                    f"data set {dataset} ({config}) has no column '{missing[0]}', only "
                    f"{list(row)}; files of any columns are for the kinds parquet and jsonl"
                )
            yield row
    except (OSError, ValueError) as error:
        raise DataError(
            f"data set {dataset} ({config}) cannot be read: {error}. Check the network, or set "
            "hub_root in params.yaml to a folder that holds a copy"
        ) from error
