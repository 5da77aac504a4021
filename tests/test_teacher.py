"""A teacher is fetched whole and verified, or not at all; the message says what is wrong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    RobertaConfig,
)

from stages.errors import SettingsError, TeacherError
from stages.files import sha256_of
from stages.params import FolderTeacher, IBBertTeacher
from stages.teacher.fetch import REQUIRED, fetch_teacher
from stages.teacher.models import check_reads, open_teacher, pooler_in, save_model
from tests.tiny_models import VOCABULARY, tiny_sequences, tiny_teacher
from tests.tiny_pipeline import save_teacher, save_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_teacher(tmp_path / "teacher")
    return tmp_path / "teacher"


def fetch(folder: Path, out: Path, sha256: dict[str, str] | None = None) -> None:
    checks = sha256 or {"model.safetensors": sha256_of(folder / "model.safetensors")}
    fetch_teacher(FolderTeacher(kind="folder", path=str(folder), sha256=checks), out)


def test_verified_teacher_is_there_with_its_tokenizer(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    fetch(folder, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(REQUIRED)


def test_wrong_checksum_is_refused_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"model.safetensors has sha256 .* says 0{64}"):
        fetch(folder, tmp_path / "out", {"model.safetensors": "0" * 64})
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["teacher"]


@pytest.mark.parametrize("name", REQUIRED)
def test_missing_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    checks = {"model.safetensors": sha256_of(folder / "model.safetensors")}
    (folder / name).unlink()
    with pytest.raises(TeacherError, match=f"the teacher has no {name}"):
        fetch(folder, tmp_path / "out", checks)


def test_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match=r"teacher.source.path = .*/nowhere: is not a folder"):
        fetch(tmp_path / "nowhere", tmp_path / "out", {"model.safetensors": "0" * 64})


def test_tokenizer_of_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    size = save_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size + 1}))
    with pytest.raises(TeacherError, match=f"has {size} tokens and the teacher {size + 1}"):
        fetch(folder, tmp_path / "out")


def test_teacher_of_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(TeacherError, match="the teacher is of type 'gpt2'"):
        fetch(folder, tmp_path / "out")


def test_files_that_say_too_little_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model"')
    with pytest.raises(TeacherError, match=r"tokenizer.json is none: EOF"):
        fetch(folder, tmp_path / "out")
    config = json.loads((folder / "config.json").read_text())
    del config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(TeacherError, match=r"config.json does not say its vocab_size"):
        fetch(folder, tmp_path / "out")


def test_teacher_without_a_head_gets_one_only_to_be_trained(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(TeacherError, match="has no masked-language-model head"):
        open_teacher(tmp_path)
    first, second = (open_teacher(tmp_path, seed=5, needs_head=False) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rows_longer_than_a_models_positions_are_refused() -> None:
    # Both have 20; RoBERTa's first two are those of padding, which is 1, and before.
    roberta = RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=20, pad_token_id=1)
    for config, most in ((tiny_teacher().config, 20), (roberta, 18)):
        check_reads(config, tiny_sequences(length=most), "teacher")
        message = rf"sequence_length = {most + 2}: teacher has positions for {most} tokens"
        with pytest.raises(SettingsError, match=message):
            check_reads(config, tiny_sequences(length=most + 2), "teacher")


def test_dropout_is_taken_from_the_settings(folder: Path) -> None:
    assert open_teacher(folder, dropout=0.3).bert.embeddings.dropout.p == 0.3
    assert open_teacher(folder).bert.embeddings.dropout.p == 0.1


def test_saved_model_opens_as_a_stock_model(folder: Path, tmp_path: Path) -> None:
    teacher = open_teacher(folder)
    save_model(teacher, folder, tmp_path / "saved")
    again = BertForMaskedLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.cls.predictions.bias, teacher.cls.predictions.bias)
    assert (tmp_path / "saved" / "tokenizer.json").is_file()


def test_ib_bert_is_made_with_another_models_vocabulary(folder: Path, tmp_path: Path) -> None:
    checks = {"model.safetensors": sha256_of(folder / "model.safetensors")}
    source = IBBertTeacher(
        kind="ib_bert",
        tokenizer=FolderTeacher(kind="folder", path=str(folder), sha256=checks),
        num_layers=2,
        width=16,
        bottleneck=24,
        inner=32,
        embedding=8,
        num_heads=2,
    )
    for name in ("one", "again"):
        fetch_teacher(source, tmp_path / name, seed=7)
    made, given = (open_teacher(tmp_path / "one"), open_teacher(folder))
    assert type(made).__name__ == "IBBertForMaskedLM"
    assert made.config.vocab_size == given.config.vocab_size
    assert made.config.num_hidden_layers == 2
    assert (tmp_path / "one" / "tokenizer.json").is_file()
    same = [sha256_of(tmp_path / name / "model.safetensors") for name in ("one", "again")]
    assert same[0] == same[1]


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_pooler_of_the_source_outlives_adaptation(
    folder: Path, tmp_path: Path, prefix: str
) -> None:
    weights = load_file(folder / "model.safetensors")
    width = open_teacher(folder).config.hidden_size
    pooler = {
        "pooler.dense.weight": torch.randn(width, width),
        "pooler.dense.bias": torch.ones(width),
    }
    save_file(
        weights | {f"{prefix}{name}": tensor for name, tensor in pooler.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    model = open_teacher(folder)
    save_model(model, folder, tmp_path / "saved", pooler_in(folder))
    classifier = BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(classifier.bert.pooler.dense.weight, pooler["pooler.dense.weight"])
    # The masked language model is what it was.
    again = open_teacher(tmp_path / "saved")
    assert torch.equal(again.cls.predictions.bias, model.cls.predictions.bias)
    assert pooler_in(tmp_path / "saved").keys() == pooler.keys()
