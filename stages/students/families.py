"""Students of their teacher's own kind, at any depth and width: BERT, RoBERTa, ModernBERT.

A BERT student of some teacher layers is BERT-PKD's; a narrower one TinyBERT's, MiniLM's or one of
the released miniatures; a RoBERTa student of six layers is DistilRoBERTa. Weights can be copied
where the width is the teacher's; otherwise a student starts at random.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from stages.errors import SettingsError
from stages.students.heads import set_dropout
from stages.students.positions import first_position, num_positions

if TYPE_CHECKING:
    from stages.params import Shape

LAYER_PREFIXES = {
    "bert": "bert.encoder.layer.",
    "distilbert": "distilbert.transformer.layer.",
    "roberta": "roberta.encoder.layer.",
    "modernbert": "model.layers.",
}
"""Where each kind keeps its layers; everything outside them is copied as it is."""
SPECIAL_IDS = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")


def build_relative(
    teacher: PreTrainedModel,
    shape: "Shape",
    layers: Sequence[int] | None,
    *,
    dropout: float,
    seed: int,
) -> PreTrainedModel:
    """Return a student of the shape's kind: a stock masked language model.

    Args:
        teacher: Gives the vocabulary, and every size that the shape leaves open.
        shape: Depth, and where given width, feed-forward width and heads.
        layers: Zero-based layers of the teacher to copy, one for each of the student's; None
            draws every weight at random.
        dropout: Of the student, everywhere.
        seed: Of what is drawn at random.

    Raises:
        SettingsError: the layers cannot be copied into this shape.
    """
    config = relative_config(teacher.config, shape)
    set_dropout(config, dropout)
    if layers is not None:
        _check_copy(teacher.config, config, layers)
        if config.model_type == "modernbert":
            # A layer keeps its kind of attention, local or global, wherever it goes.
            config.layer_types = [teacher.config.layer_types[layer] for layer in layers]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student: PreTrainedModel = AutoModelForMaskedLM.from_config(config)
    if layers is not None:
        prefix = LAYER_PREFIXES[config.model_type]
        student.load_state_dict(dict(_copied(teacher.state_dict(), prefix, layers)))
        student.tie_weights()
    return student


def relative_config(teacher: Any, shape: "Shape") -> Any:
    """Return the configuration of a shape, with what it leaves open taken from a teacher's.

    Of a teacher of another kind that is its width; heads and inner width are those of the student's
    kind.
    """
    if teacher.model_type == shape.kind:
        config = copy.deepcopy(teacher)
    else:
        config = AutoConfig.for_model(
            shape.kind, vocab_size=teacher.vocab_size, num_hidden_layers=shape.num_layers
        )
        for name in SPECIAL_IDS:
            if hasattr(config, name):
                # Ids of another vocabulary are those of a kind's defaults.
                setattr(config, name, getattr(teacher, name, None))
        config.max_position_embeddings = num_positions(teacher) + first_position(config)
    width = shape.width or teacher.hidden_size
    if width != config.hidden_size:
        config.num_attention_heads = shape.num_heads or max(1, width // 64)
        config.intermediate_size = 4 * width
        config.hidden_size = width
    if shape.num_heads:
        config.num_attention_heads = shape.num_heads
    if shape.inner:
        config.intermediate_size = shape.inner
    if width % config.num_attention_heads:
        raise SettingsError(
            f"architecture: a width of {width} cannot be split into "
            f"{config.num_attention_heads} heads"
        )
    config.num_hidden_layers = shape.num_layers
    if shape.kind == "modernbert":
        config.layer_types = config.layer_types[: shape.num_layers]
        if len(config.layer_types) < shape.num_layers:
            raise SettingsError(
                f"architecture.num_layers = {shape.num_layers}: a ModernBERT student has at most "
                f"the {len(config.layer_types)} layers of its teacher"
            )
    return config


def _check_copy(teacher: Any, student: Any, layers: Sequence[int]) -> None:
    if teacher.model_type != student.model_type:
        raise SettingsError(
            f"layers of a {teacher.model_type} teacher cannot be copied into a "
            f"{student.model_type} student; initialise it at random"
        )
    for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
        # DistilBERT's inner width has another name, and is its teacher's.
        mine, theirs = getattr(student, name, None), getattr(teacher, name, None)
        if mine != theirs:
            raise SettingsError(
                f"layers cannot be copied: the student's {name} is {mine}, the teacher's {theirs}; "
                "initialise it at random"
            )
    if student.model_type == "modernbert" and (layers[0] != 0 or 0 in layers[1:]):
        raise SettingsError(
            "initialise.layers of a ModernBERT student must begin with 0, and have it once: only "
            "the teacher's first layer works without a norm before its attention"
        )


def _copied(
    teacher: dict[str, Tensor], prefix: str, layers: Sequence[int]
) -> Iterator[tuple[str, Tensor]]:
    for name, value in teacher.items():
        if not name.startswith(prefix):
            yield name, value
    for index, layer in enumerate(layers):
        start = f"{prefix}{layer}."
        for name, value in teacher.items():
            if name.startswith(start):
                yield f"{prefix}{index}.{name.removeprefix(start)}", value
