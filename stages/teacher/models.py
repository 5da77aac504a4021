"""Stock model folders: opened from safetensors only, written whole with their tokenizer."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from stages.corpus.reading import Sequences
from stages.errors import SettingsError, TeacherError
from stages.files import atomic_output
from stages.students.heads import quiet_transformers, set_dropout
from stages.students.positions import num_positions
from stages.training.checkpoints import disk_errors

HEADS = ("cls.", "lm_head.", "head.", "decoder.")
"""How the names of masked-language-model heads begin, by kind of model."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def open_teacher(
    folder: Path, *, seed: int = 0, dropout: float | None = None, needs_head: bool = True
) -> PreTrainedModel:
    """Return the masked language model in a folder: BERT, RoBERTa, ModernBERT, or IB-BERT.

    Args:
        folder: A stock model folder with safetensors.
        seed: Of the head's weights where the folder has none.
        dropout: Replaces the folder's own rates; None keeps them.
        needs_head: Refuse a model without a masked-language-model head of its own.

    Raises:
        TeacherError: the folder lacks weights that must be there.
    """
    quiet_transformers()
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if dropout is not None:
        set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, loading = AutoModelForMaskedLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    missing = sorted(loading["missing_keys"])
    body = [name for name in missing if not name.startswith(HEADS)]
    if body:
        raise TeacherError(f"{folder} lacks weights of the encoder: {', '.join(body[:3])} ...")
    if missing and needs_head:
        raise TeacherError(
            f"{folder} has no masked-language-model head, and teacher.adapt is null: "
            "give teacher.adapt a schedule, which trains one on the corpus"
        )
    return model


def check_reads(config: Any, sequences: Sequences, name: str) -> None:
    """Refuse shards that a model cannot read.

    Args:
        config: The model's.
        sequences: Rows of the shards.
        name: The model's, as params.yaml has it.

    Raises:
        SettingsError: they have another vocabulary, or rows longer than the model has positions.
    """
    if sequences.vocabulary_size != config.vocab_size:
        raise SettingsError(
            f"the shards were made with a vocabulary of {sequences.vocabulary_size} tokens, the "
            f"teacher has {config.vocab_size}: run dvc repro to make them with its tokenizer"
        )
    most = num_positions(config)
    if sequences.sequence_length > most:
        raise SettingsError(
            f"params.yaml: corpus.shards.sequence_length = {sequences.sequence_length}: {name} has "
            f"positions for {most} tokens"
        )


def pooler_in(folder: Path) -> dict[str, Tensor]:
    """Return the pooler's tensors of a model folder, by the ends of their names; {} without one.

    A masked language model has no pooler, but a classifier made from the same weights begins with
    it: published fine-tuning scores are those of a model that kept its own.
    """
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        names = [name for name in weights.keys() if ".pooler." in f".{name}"]  # noqa: SIM118
        return {name[name.index("pooler.") :]: weights.get_tensor(name) for name in names}


def save_model(
    model: PreTrainedModel,
    tokenizer_folder: Path,
    out: Path,
    pooler: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write a model as a stock folder, with the tokenizer files of another folder beside it.

    Args:
        model: Any stock model.
        tokenizer_folder: Where its tokenizer is.
        out: The folder to make.
        pooler: From `pooler_in`; kept beside the weights of a model that has none itself.
    """
    with atomic_output(out) as target:
        with disk_errors(target):
            model.save_pretrained(target)
            if pooler:
                path = target / "model.safetensors"
                prefix = model.base_model_prefix
                kept = {f"{prefix}.{name}": tensor for name, tensor in pooler.items()}
                save_file(load_file(path) | kept, path, metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, target / name)
