"""The optimiser and its learning rate."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from stages.params import Schedule


def learning_rate(schedule: "Schedule", step: int, num_steps: int) -> float:
    """Return the learning rate of a step counted from 0: a linear warm-up, then the decay."""
    warmup = schedule.warmup_fraction * num_steps
    factor = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if schedule.decay == "linear":
        factor = min(factor, (num_steps - step) / max(num_steps - warmup, 1))
    return schedule.learning_rate * factor


def make_optimizer(
    module: nn.Module, schedule: "Schedule", rate_factors: Mapping[str, float] | None = None
) -> torch.optim.Optimizer:
    """Return AdamW over what requires gradient; weight decay spares biases and LayerNorms.

    A group's `rate_factor` is what the schedule's learning rate is multiplied by: 1, or what
    `rate_factors` gives for its parameters by name.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            # Biases and LayerNorms are the vectors; pulling them to zero regularises nothing.
            factor = 1.0 if rate_factors is None else rate_factors[name]
            groups.setdefault((parameter.ndim > 1, factor), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": schedule.weight_decay if decayed else 0.0,
                "rate_factor": factor,
            }
            for (decayed, factor), parameters in groups.items()
        ],
        lr=schedule.learning_rate,
        betas=schedule.betas,
        eps=schedule.epsilon,
        fused=True,
    )
    for embeddings in module.modules():
        if getattr(embeddings, "trigram_input", False):
            words = cast(nn.Embedding, embeddings.word_embeddings)
            optimizer.register_step_post_hook(partial(_clear_padding, words))
    return optimizer


@torch.no_grad()
def _clear_padding(words: nn.Embedding, *_: Any) -> None:
    """Keep the embedding of padding at 0, which a tied head would move.

    MobileBERT's tokens take in their neighbours' embeddings: the last one would otherwise depend on
    whether padding follows it.
    """
    words.weight[words.padding_idx].zero_()
