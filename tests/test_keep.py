"""The model that a median is of can be had again, whole and with the very same score."""

from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from stages.errors import DataError
from stages.evaluation.finetune import finetune
from stages.evaluation.keep import keep, median_seed
from stages.training.processes import joined_processes
from tests.test_finetune import settings, write_task
from tests.tiny_pipeline import save_teacher


def test_the_median_seed_is_the_lower_of_two():
    report = {"score": {"values": [70.0, 50.0, 60.0, 90.0]}, "seeds": [1, 2, 3, 4]}
    assert median_seed(report) == 3
    assert median_seed({"score": {"values": [7.0, 9.0, 8.0]}, "seeds": [4, 5, 6]}) == 6


def test_a_kept_model_has_the_score_of_its_seed(tmp_path: Path):
    save_teacher(tmp_path / "teacher")
    model, task = tmp_path / "teacher", write_task(tmp_path / "task")
    chosen = settings(num_epochs=1, dropout=0.2, max_validation_examples=20)
    with joined_processes() as processes:
        report = finetune(
            model, task, chosen, processes, tmp_path / "report.json", tmp_path / "answers.parquet"
        )
        score = keep(model, task, report, chosen, processes, tmp_path / "kept")
        seed = report["seeds"].index(median_seed(report))
        assert score == pytest.approx(report["score"]["values"][seed])
        other = report | {"model": "another"}
        with pytest.raises(DataError, match="the report is of model another, not of teacher"):
            keep(model, task, other, chosen, processes, tmp_path / "none")
        with pytest.raises(DataError, match=r"by recipe pd, not of fine-tuning: .* with --out"):
            keep(model, task, report | {"recipe": "pd"}, chosen, processes, tmp_path / "none")
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "kept")
    assert kept.config.id2label == {0: "without", 1: "with"}
    assert kept.config.hidden_dropout_prob == 0.2
    assert (tmp_path / "kept" / "tokenizer.json").is_file()
    assert not (tmp_path / "none").exists()
