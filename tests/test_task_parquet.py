"""Tasks from a folder of Parquet files, whole or in pieces, with label ids or names."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.errors import DataError
from stages.evaluation.task_folder import HIDDEN, Example, Question
from stages.evaluation.task_sources import read_folder
from stages.evaluation.tasks import get_task


def write(root: Path, name: str, **columns: list[Any]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_splits_are_read_whole_or_in_pieces_in_their_order(tmp_path: Path) -> None:
    for i, text in enumerate(["First.", "Second."]):
        write(tmp_path, f"cola/train-0000{i}-of-00002.parquet", sentence=[text], label=[i])
    write(tmp_path, "cola/validation.parquet", sentence=["Third."], label=[1])
    data, source = read_folder(get_task("cola"), tmp_path)
    assert data.train == [Example("First.", None, 0), Example("Second.", None, 1)]
    assert data.validation == {"validation": [Example("Third.", None, 1)]}
    assert source == "CoLA, Parquet files of a folder"


def test_labels_may_be_names_and_hidden_ones_are_minus_one(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        write(
            tmp_path,
            f"rte/{split}.parquet",
            sentence1=["A."],
            sentence2=["B."],
            label=["not_entailment"],
        )
    write(tmp_path, "rte/test.parquet", sentence1=["C."], sentence2=["D."], label=[-1])
    data, _ = read_folder(get_task("rte"), tmp_path, ("test",))
    assert data.train == [Example("A.", "B.", 1)]
    assert data.test == {"test": [Example("C.", "D.", HIDDEN)]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"sentence": ["a"], "label": [2]},
            r"train.parquet, row 0: label 2 must be 0 to 1, or \('unacceptable', 'acceptable'\)",
        ),
        ({"sentence": ["a"], "label": ["good"]}, r"row 0: label 'good' must be 0 to 1"),
        ({"text": ["a"], "label": [1]}, r"train.parquet: no column sentence; it has: text, label"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    write(tmp_path, "cola/train.parquet", **columns)
    with pytest.raises(DataError, match=message):
        read_folder(get_task("cola"), tmp_path)


def test_a_file_that_declares_another_label_order_is_refused(tmp_path: Path) -> None:
    info = '{"info": {"features": {"label": {"names": ["not_entailment", "entailment"]}}}}'
    table = pa.table({"sentence1": ["A."], "sentence2": ["B."], "label": [0]})
    (tmp_path / "rte").mkdir()
    pq.write_table(
        table.replace_schema_metadata({"huggingface": info}), tmp_path / "rte/train.parquet"
    )
    with pytest.raises(
        DataError, match=r"must be \['entailment', 'not_entailment'\] in this order"
    ):
        read_folder(get_task("rte"), tmp_path)


def test_an_answer_that_is_not_at_its_place_is_refused(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"id": ["q"], "question": ["Who?"], "context": ["It was Ada."]}
    for start, split in ((7, "train"), (6, "validation")):
        answers = [{"text": ["Ada"], "answer_start": [start]}]
        write(tmp_path, f"squad/{split}.parquet", **columns, answers=answers)
    with pytest.raises(
        DataError, match=r"row 0: answer 'Ada' of question q is not at character 6 of its context"
    ):
        read_folder(get_task("squad"), tmp_path)
    columns["answers"] = [{"text": ["Ada"], "answer_start": [7]}]
    write(tmp_path, "squad/validation.parquet", **columns)
    data, _ = read_folder(get_task("squad"), tmp_path)
    assert data.train == [Question("q", "Who?", "It was Ada.", ("Ada",), (7,))]
