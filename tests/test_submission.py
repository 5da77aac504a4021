"""The file for GLUE's server, from hand-made predictions."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stages.errors import DataError
from stages.evaluation.predictions import Predictions, table_of, write_predictions
from stages.evaluation.submission import FILES, submission, write_submission
from stages.evaluation.tasks import TASKS

# The two seeds' answers; the second seed is the better one on validation.
ANSWERS = {name: ([0, 0, 0], [0, 1, 0]) for name in TASKS}
ANSWERS |= {"mnli": ([0, 0, 0], [0, 1, 2]), "stsb": ([1.0, 1.0, 1.0], [-0.25, 3.14159, 5.75])}


def reports(folder: Path, *, without: str = "") -> Path:
    for name, spec in TASKS.items():
        if not spec.is_glue or name == without:
            continue
        dtype = np.float32 if spec.kind == "regression" else np.int64
        tables = [
            table_of(
                seed,
                {
                    split: Predictions(np.array(answers, dtype), np.full(3, -1, dtype))
                    for split in (*spec.validation_splits, *spec.test_splits)
                },
            )
            for seed, answers in zip((1, 2), ANSWERS[name], strict=True)
        ]
        write_predictions(tables, folder / "predictions" / "student" / f"{name}.parquet")
        path = folder / "finetune" / "student" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"score": {"values": [50.0, 60.0]}}))
    return folder


def test_the_server_gets_eleven_files_of_the_best_seed(tmp_path: Path) -> None:
    texts = submission("student", reports(tmp_path))
    assert sorted(texts) == [
        "AX.tsv", "CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "MRPC.tsv", "QNLI.tsv",
        "QQP.tsv", "RTE.tsv", "SST-2.tsv", "STS-B.tsv", "WNLI.tsv",
    ]  # fmt: skip
    assert texts["CoLA.tsv"] == "index\tprediction\n0\t0\n1\t1\n2\t0\n"
    for name in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"):
        assert texts[name] == "index\tprediction\n0\tentailment\n1\tneutral\n2\tcontradiction\n"
    for name in ("QNLI.tsv", "RTE.tsv"):
        assert texts[name] == "index\tprediction\n0\tentailment\n1\tnot_entailment\n2\tentailment\n"
    # WNLI's server takes ids, and 1 is entailment.
    assert texts["WNLI.tsv"] == texts["CoLA.tsv"]


def test_similarities_are_numbers_from_0_to_5(tmp_path: Path) -> None:
    texts = submission("student", reports(tmp_path))
    assert texts["STS-B.tsv"] == "index\tprediction\n0\t0.000\n1\t3.142\n2\t5.000\n"


def test_the_zip_file_is_the_same_to_the_byte(tmp_path: Path) -> None:
    texts = submission("student", reports(tmp_path))
    write_submission(texts, tmp_path / "a.zip")
    write_submission(dict(reversed(texts.items())), tmp_path / "b.zip")
    content = (tmp_path / "a.zip").read_bytes()
    assert content == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name).decode() for name in archive.namelist()} == texts


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"student lacks predictions for MNLI-m.tsv \(task mnli, split test_matched\), "
        r"MNLI-mm.tsv .*, AX.tsv .*; set evaluation.predict_test: true",
    ):
        submission("student", reports(tmp_path, without="mnli"))


def test_a_part_of_the_official_test_set_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    submission("student", reports(tmp_path))
    assert "CoLA.tsv has 3 predictions and the official test set 1063 examples" in caplog.text


def test_the_files_are_the_test_splits_of_the_task_table() -> None:
    asked = {(file.task, file.split) for file in FILES}
    assert asked == {(name, split) for name, spec in TASKS.items() for split in spec.test_splits}
