"""What models answered, example by example: reports/predictions/<model>/<task>.parquet.

One row per seed, split and example. Columns: seed, split, answer (a label's id, a number or a
text) and truth (HIDDEN where it is not public); for questions on texts, exact_match and f1 in
place of truth. Intervals and GLUE submissions are made from these, without running a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stages.errors import DataError
from stages.files import atomic_output


@dataclass(frozen=True, slots=True)
class Predictions:
    """One model's answers to one split, in the order of its examples."""

    answers: NDArray[Any]
    truth: NDArray[Any] | None = None
    """Labels; None for questions on texts."""
    scores: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Metrics of every single answer, where a metric is the mean of such."""


@dataclass(frozen=True, slots=True)
class SeedAnswers:
    """The answers that every seed of one model gave to one split."""

    answers_SN: NDArray[Any]
    truth_N: NDArray[Any] | None
    scores_SN: Mapping[str, NDArray[np.float64]]


def table_of(seed: int, by_split: Mapping[str, Predictions]) -> pa.Table:
    """Return one seed's answers to all splits as rows."""
    tables = []
    for split, given in by_split.items():
        num = len(given.answers)
        columns: dict[str, Any] = {
            "seed": pa.array(np.full(num, seed), pa.int64()),
            "split": pa.array([split] * num).dictionary_encode(),
            "answer": pa.array(given.answers.tolist()),
        }
        if given.truth is not None:
            columns["truth"] = pa.array(given.truth.tolist())
        for name, values in given.scores.items():
            columns[name] = pa.array(values, pa.float32())
        tables.append(pa.table(columns))
    return pa.concat_tables(tables).unify_dictionaries()


def write_predictions(tables: Sequence[pa.Table], out: Path) -> None:
    """Write the rows of all seeds as one file, whole or not at all."""
    with atomic_output(out) as target:
        pq.write_table(pa.concat_tables(tables).unify_dictionaries(), target, compression="zstd")


def read_predictions(path: Path, split: str) -> SeedAnswers | None:
    """Return the answers of all seeds to one split; None where there is no such file or split.

    Raises:
        DataError: the file is not one of predictions, or its seeds answered different examples.
    """
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        rows = table.filter(pc.equal(table["split"].cast(pa.string()), split))
        seeds = rows["seed"].unique().to_pylist()
    except (pa.ArrowInvalid, KeyError) as error:
        raise DataError(f"{path} does not hold predictions ({error}); run: dvc repro") from error
    if not seeds:
        return None
    per_seed = [rows.filter(pc.equal(rows["seed"], seed)) for seed in seeds]
    if len({part.num_rows for part in per_seed}) > 1:
        raise DataError(f"{path}: seeds answered different numbers of examples; run: dvc repro")
    columns = {
        name: np.stack([part[name].to_numpy() for part in per_seed])
        for name in rows.column_names
        if name not in ("seed", "split")
    }
    truth = columns.pop("truth", None)
    answers = columns.pop("answer")
    return SeedAnswers(answers, None if truth is None else truth[0], columns)
