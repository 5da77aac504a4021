"""The optimiser and its learning rate."""

from typing import TYPE_CHECKING

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


def make_optimizer(module: nn.Module, schedule: "Schedule") -> torch.optim.Optimizer:
    """Return AdamW over what requires gradient; weight decay spares biases and LayerNorms."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            # Biases and LayerNorms are the vectors; pulling them to zero regularises nothing.
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": schedule.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=schedule.learning_rate,
        betas=schedule.betas,
        eps=schedule.epsilon,
        fused=True,
    )
