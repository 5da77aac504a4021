"""Tasks of the user's own: described in params.yaml, read from TSV or Parquet in a folder."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.errors import DataError, SettingsError
from stages.evaluation.prepare import read_folder
from stages.evaluation.task_folder import Example
from stages.evaluation.tasks import get_task
from stages.params import OwnTask

GENRE = {"folder": "raw/genre", "texts": ["line"], "labels": ["verse", "prose"]}


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
    rows = {"line": ["It rained.", "O rain!"], "label": ["prose", "verse"]}
    pq.write_table(pa.table(rows), tmp_path / "train-00000-of-00001.parquet")
    rows = {"line": ["The rain stopped."], "label": [1]}
    pq.write_table(pa.table(rows), tmp_path / "validation.parquet")
    from_parquet, _ = read_folder(spec, tmp_path)
    assert from_parquet == from_tsv


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
