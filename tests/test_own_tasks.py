"""Tasks of the user's own: described in params.yaml, read from TSV or Parquet in a folder."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.errors import DataError, SettingsError
from stages.evaluation.predictions import Predictions
from stages.evaluation.prepare import prepare
from stages.evaluation.task_folder import Example, write_task
from stages.evaluation.task_models import scored
from stages.evaluation.task_sources import read_folder
from stages.evaluation.tasks import get_task
from stages.files import read_json
from stages.params import OwnTask, load
from tests.conftest import ROOT

GENRE = {"folder": "raw/genre", "texts": ["line"], "labels": ["verse", "prose"]}
NUMBERS = {"labels": None, "metrics": ["pearson"]}


def own(**changes: Any) -> dict[str, OwnTask]:
    return {"genre": OwnTask.model_validate(GENRE | {"metrics": ["accuracy"]} | changes)}


def test_tsv_and_parquet_give_the_same_examples(tmp_path: Path) -> None:
    spec = get_task("genre", own())
    (tmp_path / "train.tsv").write_text("label\tline\nprose\tIt rained.\nverse\tO rain!\n")
    (tmp_path / "validation.tsv").write_text("line\tlabel\nThe rain stopped.\tprose\n")
    from_tsv, source = read_folder(spec, tmp_path)
    assert from_tsv.labels == ("verse", "prose")
    assert from_tsv.train == [Example("It rained.", None, 1), Example("O rain!", None, 0)]
    assert source == "genre (own), TSV files of a folder"
    for file in tmp_path.glob("*.tsv"):
        file.unlink()
    rows = {"line": ["It rained.", "O rain!"], "label": [True, False]}
    pq.write_table(pa.table(rows), tmp_path / "train-00000-of-00001.parquet")
    rows = {"line": ["The rain stopped."], "label": [1]}
    pq.write_table(pa.table(rows), tmp_path / "validation.parquet")
    from_parquet, _ = read_folder(spec, tmp_path)
    assert from_parquet == from_tsv
    assert [type(row.label) for row in from_parquet.train if isinstance(row, Example)] == [int, int]


def test_a_pair_with_a_number_as_its_answer_is_a_regression(tmp_path: Path) -> None:
    tasks = own(texts=["left", "right"], labels=None, metrics=["spearman"])
    spec = get_task("genre", tasks)
    assert (spec.kind, spec.is_glue, spec.is_derived) == ("regression", False, False)
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("left\tright\tlabel\na\tb\t-7.5\n")
    assert read_folder(spec, tmp_path)[0].train == [Example("a", "b", -7.5)]
    (tmp_path / "train.tsv").write_text("left\tright\tlabel\na\tb\tnan\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 2: label 'nan' is not a number"):
        read_folder(spec, tmp_path)


def test_minus_one_is_a_number_like_any_other(tmp_path: Path) -> None:
    spec = get_task("genre", own(labels=None, metrics=["pearson"]))
    for split in ("train", "validation"):
        rows = {"line": ["It rained.", "O rain!"], "label": [-1.0, 1.0]}
        pq.write_table(pa.table(rows), tmp_path / f"{split}.parquet")
    write_task(spec, *read_folder(spec, tmp_path), tmp_path / "task")
    assert pq.read_table(tmp_path / "task" / "train.parquet")["label"].to_pylist() == [-1, 1]
    truth = np.array([-1.0, 1.0], dtype=np.float32)
    task = read_json(tmp_path / "task" / "task.json")
    assert scored({"validation": Predictions(truth, truth)}, task)["pearson"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({}, {"line": ["a", None]}, r"train\.parquet, row 1: line = None must be a text"),
        ({}, {"line": [1, 2]}, r"row 0: line = 1 must be a text"),
        ({}, {"label": [0, -1]}, r"row 1: label -1 must be 0 to 1"),
        ({"labels": ["1", "2"]}, {"label": [1, 2]}, r"row 0: label 1 is read as an id, and as"),
        ({}, {"label": [0, None]}, r"row 1: label None must be 0 to 1"),
        (NUMBERS, {"label": [0.5, math.nan]}, r"row 1: label nan must be a number"),
        ({}, {"line": [], "label": []}, r"task genre: split train has no examples"),
    ],
)
def test_a_row_that_cannot_be_learned_from_is_named(
    tmp_path: Path, changes: dict[str, Any], rows: dict[str, Any], message: str
) -> None:
    spec = get_task("genre", own(**changes))
    for split in ("train", "validation"):
        columns = {"line": ["a", "b"], "label": [0, 1]} | rows
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=message):
        write_task(spec, *read_folder(spec, tmp_path), tmp_path / "task")


def test_a_tab_inside_a_text_is_an_error_and_no_cut(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("label\tline\nprose\tIt\train\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 2: 3 columns, and 2 are needed"):
        read_folder(get_task("genre", own()), tmp_path)


def test_texts_that_are_learned_and_judged_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, texts in (("train", ["It rained.", "O rain!"]), ("validation", ["O rain!", "Sun."])):
        pq.write_table(pa.table({"line": texts, "label": [0, 1]}), tmp_path / f"{split}.parquet")
    tasks, chosen = own(folder=str(tmp_path)), load(ROOT / "profiles" / "offline.yaml")
    evaluation = chosen.evaluation.model_copy(update={"own_tasks": tasks})
    chosen = chosen.model_copy(update={"evaluation": evaluation})
    prepare(get_task("genre", tasks), tmp_path, chosen)
    assert "task genre: 1 of 2 examples of validation have their texts in train too" in caplog.text


def test_a_folder_without_files_and_an_unknown_label_are_named(tmp_path: Path) -> None:
    spec = get_task("genre", own())
    with pytest.raises(
        DataError,
        match=r"task genre: evaluation\.own_tasks\.genre\.folder = .* has none of train\.tsv, "
        r"train\.parquet, train-\*-of-\*\.parquet",
    ):
        read_folder(spec, tmp_path)
    (tmp_path / "train.tsv").write_text("line\tlabel\nO rain!\todes\n")
    with pytest.raises(DataError, match="line 2: label 'odes' is not one of: verse, prose"):
        read_folder(spec, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["pearson"]}, "metrics names pearson, which does not score 2 labels; what "),
        ({"labels": ["a", "b", "c"], "metrics": ["f1"]}, "does not score 3 labels; what does: acc"),
        ({"labels": None}, "accuracy, which does not score numbers; what does: pearson, spearman"),
        ({"labels": ["a", "a"]}, "labels: a, a has a name twice"),
    ],
)
def test_what_cannot_be_scored_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        own(**changes)


def test_an_unknown_name_lists_yours_too() -> None:
    with pytest.raises(SettingsError, match=r"no task 'genres'; there are: cola.*match, genre$"):
        get_task("genres", own())
