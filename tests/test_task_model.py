"""A small fine-tuned classifier, exported with its task: parity, scores, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from stages import params
from stages.errors import DataError
from stages.export.parity import ParityError, open_session
from stages.export.task_model import export_task_model, faults_of

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["good", "bad", "film", "book", "a", "the", "very", "not"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LABELS = ["negative", "positive"]


def write_model(folder: Path, **about: object) -> Path:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        **about,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    # As a call to it may have left them: all-MiniLM's file has both.
    tokenizer.enable_truncation(24)
    tokenizer.enable_padding(length=24)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_task(folder: Path, kind: str) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", 8), ("validation", 70)):
        texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(count)]
        other = [" ".join(rng.choice(WORDS, size=4)) for _ in range(count)]
        labels = rng.random(count) * 5 if kind == "regression" else rng.integers(0, 2, count)
        pq.write_table(
            pa.table({"text_a": texts, "text_b": other, "label": labels}),
            folder / f"{split}.parquet",
        )
    about = {
        "name": "toy",
        "title": "Toy",
        "kind": kind,
        "labels": None if kind == "regression" else LABELS,
        "metrics": ["pearson"] if kind == "regression" else ["accuracy"],
        "scored_by": ["pearson"] if kind == "regression" else ["accuracy"],
        "is_derived": True,
        "pair": True,
        "validation_splits": ["validation"],
    }
    (folder / "task.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def settings() -> params.Params:
    loaded = params.load(ROOT / "profiles" / "offline.yaml")
    tuning = loaded.evaluation.finetune.model_copy(
        update={"by_task": {"toy": params.TaskTuning(max_length=10)}}
    )
    evaluation = loaded.evaluation.model_copy(update={"finetune": tuning})
    export = loaded.export.model_copy(update={"max_score_drop": 50.0, "min_int8_agreement": 0.5})
    return loaded.model_copy(update={"export": export, "evaluation": evaluation})


def test_a_classifier_is_exported_with_the_score_of_every_file(
    tmp_path: Path, settings: params.Params
):
    names = dict(enumerate(LABELS))
    model = write_model(
        tmp_path / "model", id2label=names, label2id={b: a for a, b in names.items()}
    )
    task = write_task(tmp_path / "task", "classification")
    out, report = tmp_path / "out" / "toy", tmp_path / "toy.json"
    tuning = settings.evaluation.finetune.model_copy(update={"max_validation_examples": 50})
    settings = settings.model_copy(
        update={"evaluation": settings.evaluation.model_copy(update={"finetune": tuning})}
    )
    result = export_task_model(model, task, settings, out, report)
    assert result["num_examples"] == 50
    assert json.loads(report.read_text()) == result
    assert set(result["scores"]) == {"PyTorch", "model.onnx", "model.int8.onnx"}
    assert result["scores"]["model.onnx"] == result["scores"]["PyTorch"]
    assert result["fp32"]["agreement"] == 1.0
    # Texts are as long here as where the model was tuned and scored, and the files say so.
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert [len(tokenizer.encode(text).ids) for text in ("good film", "very " * 30)] == [4, 10]
    assert result["max_length"] == 10
    about = json.loads((out / "tokenizer_config.json").read_text())
    assert about["model_max_length"] == 10
    # Pairs have token types, which this model was trained with.
    session = open_session(out / "model.onnx")
    names_in = [entry.name for entry in session.get_inputs()]
    assert names_in == ["input_ids", "attention_mask", "token_type_ids"]
    feeds = {name: np.ones((3, 11), dtype=np.int64) for name in names_in}
    assert session.run(["logits"], feeds)[0].shape == (3, 2)
    assert (
        '{"text": "A text of your own.", "text_pair": "And another."}'
        in (out / "README.md").read_text()
    )
    about = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert about["pipeline_tag"] == "text-classification"
    value = about["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert value == pytest.approx(result["scores"]["PyTorch"], abs=0.01)


@pytest.mark.slow
def test_a_regression_has_a_score_and_no_first_choice(
    tmp_path: Path, settings: params.Params, monkeypatch: pytest.MonkeyPatch
):
    model = write_model(tmp_path / "model", num_labels=1)
    task = write_task(tmp_path / "task", "regression")
    result = export_task_model(model, task, settings, tmp_path / "out", tmp_path / "x.json")
    assert result["int8"]["agreement"] is None
    assert result["fp32"]["max_logit_difference"] < 1e-4
    assert "first choice on" not in (tmp_path / "out" / "README.md").read_text()


def test_a_file_that_loses_too_much_is_refused():
    scores = {"PyTorch": 90.0, "model.onnx": 90.0, "model.int8.onnx": 88.5}
    assert faults_of(scores, 2.0) == []
    (fault,) = faults_of(scores, 1.0)
    assert fault.startswith("model.int8.onnx: scores 88.50 where PyTorch scores 90.00")
    assert len(faults_of(scores | {"model.onnx": float("nan")}, 2.0)) == 1


def test_labels_in_another_order_are_refused(tmp_path: Path, settings: params.Params):
    swapped = {0: "positive", 1: "negative"}
    model = write_model(
        tmp_path / "model", id2label=swapped, label2id={"positive": 0, "negative": 1}
    )
    task = write_task(tmp_path / "task", "classification")
    with pytest.raises(DataError, match=r"labels \['positive', 'negative'\] are not those of task"):
        export_task_model(model, task, settings, tmp_path / "out", tmp_path / "x.json")


def test_a_classifier_is_no_regression(tmp_path: Path, settings: params.Params):
    task = write_task(tmp_path / "task", "regression")
    with pytest.raises(DataError, match=r"are not those of task toy: a number"):
        export_task_model(
            write_model(tmp_path / "model"), task, settings, tmp_path / "out", tmp_path / "x.json"
        )


def test_a_model_without_a_task_head_is_refused(tmp_path: Path, settings: params.Params):
    model: PreTrainedModel | Path = write_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    task = write_task(tmp_path / "task", "classification")
    with pytest.raises(DataError, match=r"must be a \.\.\.ForSequenceClassification"):
        export_task_model(model, task, settings, tmp_path / "out", tmp_path / "x.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_export_past_its_bounds_leaves_no_folder(tmp_path: Path, settings: params.Params):
    names = dict(enumerate(LABELS))
    model = write_model(
        tmp_path / "model", id2label=names, label2id={b: a for a, b in names.items()}
    )
    task = write_task(tmp_path / "task", "classification")
    strict = settings.export.model_copy(update={"max_logit_difference": 1e-12})
    with pytest.raises(ParityError, match="allows 1e-12"):
        export_task_model(
            model,
            task,
            settings.model_copy(update={"export": strict}),
            tmp_path / "out",
            tmp_path / "x.json",
        )
    assert (tmp_path / "x.json").exists()
    assert not (tmp_path / "out").exists()
