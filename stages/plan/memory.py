"""Memory of one training process, by part, in bytes.

Weights, gradients and optimiser state are exact; activations are counted on a model without data,
by what the forward pass keeps for the backward pass.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from stages.objectives.vocabulary_logits import CHUNK_ROWS
from stages.students.heads import num_parameters

FLOAT32, BFLOAT16 = 4, 2
PLANNED = "planned"
"""The name under which transformers knows the attention function of this module."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a process holds at the height of a step."""

    weights: int
    """Of the student, in float32, with their copies in bfloat16 where products are."""
    teacher: int
    gradients: int
    optimizer: int
    activations: int
    """An estimate: of one micro-batch, from the student's forward pass to its backward pass."""
    vocabulary: int
    """Chunks of logits, and the gradient of the head's weight."""

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return sum(asdict(self).values())


def memory_of(
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    *,
    micro_batch: int,
    sequence_length: int,
    precision: str,
    num_processes: int,
) -> Memory:
    """Return what a process needs.

    Args:
        student: A model on the meta device: shapes without data.
        teachers: Likewise; empty where none is run.
        micro_batch: Sequences in one forward pass.
        sequence_length: Tokens in each.
        precision: Of matrix products.
        num_processes: With several, gradients are kept once more to be exchanged.
    """
    narrow = precision == "bfloat16"
    per_weight = FLOAT32 + (BFLOAT16 if narrow else 0)
    size = num_parameters(student)
    kept = _kept_for_backward(student, micro_batch, sequence_length)
    vocabulary, width = student.config.vocab_size, student.config.hidden_size
    if narrow:
        # As on GPUs, where a kernel needs nothing beside the logits.
        logits = (1 + bool(teachers)) * CHUNK_ROWS["cuda"] * BFLOAT16
    else:
        # Several teachers take turns in one buffer more.
        num_buffers = 2 + min(len(teachers), 2) + bool(teachers)
        logits = num_buffers * CHUNK_ROWS["cpu"] * FLOAT32
    return Memory(
        weights=size * per_weight,
        teacher=sum(num_parameters(teacher) for teacher in teachers) * per_weight,
        gradients=size * FLOAT32 * (2 if num_processes > 1 else 1),
        optimizer=2 * size * FLOAT32,
        # Most of what autocast keeps is half as wide.
        activations=kept // 2 if narrow else kept,
        vocabulary=(logits + width * FLOAT32) * vocabulary,
    )


class _Attention(torch.autograd.Function):
    """What the engine's attention keeps for the backward pass: no scores, on a CPU or a GPU."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return torch.empty_like(value)


def _attend(
    _: nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any
) -> tuple[Tensor, None]:
    attended: Tensor = _Attention.apply(query, key, value)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(PLANNED, _attend)
AttentionMaskInterface.register(PLANNED, sdpa_mask)


# Of a phase that is many stretches of training, all ask for the same.
@lru_cache
def _kept_for_backward(model: PreTrainedModel, micro_batch: int, sequence_length: int) -> int:
    """Return the bytes of all tensors that a forward pass saves, weights left out."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            # Held, so that no other storage can take its place and number.
            kept[storage] = tensor
        return tensor

    ids_BS = torch.zeros(micro_batch, sequence_length, dtype=torch.int64, device="meta")
    model.train()
    model.set_attn_implementation(PLANNED)
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        model.base_model(input_ids=ids_BS)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
