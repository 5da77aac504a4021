"""Questions on texts are learnt by the one loop, on stock heads, over windows."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
)

from stages import params
from stages.evaluation.finetune import finetune
from stages.evaluation.predictions import read_predictions
from stages.evaluation.spans import SpanLoss, open_span_model, span_logits
from stages.evaluation.task_folder import Question, TaskData, write_task
from stages.evaluation.task_models import read_split
from stages.evaluation.tasks import get_task
from tests.conftest import ROOT
from tests.tiny_models import ALONE
from tests.tiny_pipeline import save_teacher, save_tokenizer

FILLER = [
    "the",
    "of",
    "a",
    "to",
    "is",
    "in",
    "and",
    "for",
    "that",
    "it",
    "be",
    "with",
    "as",
    "this",
]


def questions(num: int, seed: int) -> list[Question]:
    """The answer is the word behind `value`, wherever that is."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num):
        words = [str(word) for word in rng.choice(FILLER, rng.integers(10, 40))]
        answer = str(rng.choice(["true", "false", "string", "number"]))
        place = int(rng.integers(0, len(words)))
        words[place:place] = ["value", answer]
        start = len(" ".join(words[: place + 1])) + 1
        text = " ".join(words)
        found.append(Question(f"q{number}", "which value", text, (answer,), (start,)))
    return found


@pytest.fixture
def task(tmp_path: Path) -> Path:
    data = TaskData(None, questions(200, 0), {"validation": questions(40, 1)})
    write_task(get_task("squad"), data, "by hand", tmp_path / "squad")
    return tmp_path / "squad"


@pytest.fixture(params=["bert", "distilbert"])
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / request.param
    if request.param == "bert":
        save_teacher(folder)
        return folder
    size = save_tokenizer(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    )
    DistilBertForMaskedLM(config).save_pretrained(folder)
    return folder


def settings(**changes: object) -> params.Params:
    chosen = params.load(ROOT / "profiles" / "offline.yaml")
    tuning = chosen.evaluation.finetune.model_copy(
        update={
            "num_epochs": 5,
            "learning_rate": 3e-3,
            "dropout": 0.0,
            "batch_examples": 16,
            "max_length": 24,
            "stride": 8,
        }
        | changes
    )
    evaluation = chosen.evaluation.model_copy(update={"finetune": tuning, "seeds": [1]})
    return chosen.model_copy(update={"evaluation": evaluation})


def test_answers_are_found_in_windows_of_texts_that_are_too_long(
    model: Path, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, predictions = tmp_path / "r.json", tmp_path / "p.parquet"
    report = finetune(model, task, settings(), ALONE, out, predictions)
    assert list(report["metrics"]) == ["exact_match", "f1"]
    assert report["metrics"]["exact_match"]["median"] > 0.8
    # SQuAD's score is F1 alone.
    assert report["score"]["median"] == 100 * report["metrics"]["f1"]["median"]
    assert (report["num_train"], report["num_validation"]) == (200, {"validation": 40})
    assert json.loads(out.read_text()) == report
    kept = read_predictions(predictions, "validation")
    assert kept is not None
    assert kept.scores_SN["exact_match"].mean() == pytest.approx(
        report["metrics"]["exact_match"]["median"]
    )
    right = [q.answers[0] for q in questions(40, 1)]
    assert np.mean(kept.answers_SN[0] == right) > 0.8


def test_heads_are_stock_ones_with_two_outputs(model: Path) -> None:
    found = open_span_model(model, dropout=0.25, seed=1)
    assert isinstance(found, BertForQuestionAnswering | DistilBertForQuestionAnswering)
    rates = {m.p for m in found.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.25}
    again = open_span_model(model, dropout=0.25, seed=1)
    assert torch.equal(found.qa_outputs.weight, again.qa_outputs.weight)
    other = open_span_model(model, dropout=0.25, seed=2)
    assert not torch.equal(found.qa_outputs.weight, other.qa_outputs.weight)


def test_loss_is_the_stock_models_and_padding_does_not_change_it(
    model: Path, task: Path, tmp_path: Path
) -> None:
    description = json.loads((task / "task.json").read_text())
    tuning = settings().evaluation.finetune
    split = read_split(task, description, "train", model / "tokenizer.json", tuning, 6)
    found = open_span_model(model, dropout=0.0, seed=1).eval()
    loss = SpanLoss(found)
    batch = split.examples.batch(range(4))
    value, total = loss(batch, loss.counts(batch))
    assert total.item() == pytest.approx(4 * value.item())
    wider = {
        name: torch.nn.functional.pad(x, (0, 5 if name != "labels" else 0))
        for name, x in batch.items()
    }
    assert loss(wider, [4.0])[0].item() == pytest.approx(value.item(), abs=1e-6)
    assert span_logits(found, wider)[:, -5:].isneginf().all()
    # Alone there is no padding, and the loss is that of transformers.
    for row in range(4):
        single = split.examples.batch([row])
        inputs = {
            "input_ids": single["input_ids"],
            "attention_mask": single["attention_mask"],
            "start_positions": single["labels"][:, 0],
            "end_positions": single["labels"][:, 1],
        }
        if found.config.model_type == "bert":
            inputs["token_type_ids"] = single["token_type_ids"]
        assert loss(single, [1.0])[0].item() == pytest.approx(found(**inputs).loss.item(), abs=1e-5)


def test_a_part_of_the_questions_is_always_the_same_part(model: Path, task: Path) -> None:
    description = json.loads((task / "task.json").read_text())
    tuning = settings().evaluation.finetune
    parts = [
        read_split(task, description, "train", model / "tokenizer.json", tuning, 30)
        for _ in range(2)
    ]
    assert len(parts[0]) == 30
    assert parts[0].examples.ids == parts[1].examples.ids
    assert pq.read_table(task / "train.parquet").num_rows == 200
