"""A term of a loss that looks inside student and teacher.

A term says what it must see of both, what its sum over a whole batch is divided by, and its sum
over a micro-batch. It enters the loss as weight x sum / count, so that micro-batches and processes
add up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stages.distillation.matching import Pairs
from stages.errors import SettingsError
from stages.objectives.term import Term
from stages.params import ObjectiveSettings
from stages.students.taps import Seen, Taps
from stages.training.batches import Batch

Seeable = Literal["hidden", "attention"]


@dataclass(frozen=True, slots=True)
class LayerTerm:
    """One objective on hidden states or attention."""

    name: str
    weight: float
    student_taps: Taps
    teacher_taps: Taps
    count: Callable[[Batch], float]
    """What the sum over a global batch is divided by."""
    sum: Callable[[Seen, Seen, Batch], Tensor]
    """The sum over a micro-batch, from what was seen of student and teacher."""


def over_pairs(
    settings: ObjectiveSettings,
    pairs: Pairs,
    of: Seeable,
    count: Callable[[Batch], float],
    loss: Callable[[int, Any, Any, Batch], Term],
) -> LayerTerm | None:
    """Return an objective that is a sum over pairs of layers, or None where there are no pairs.

    Args:
        settings: Of the objective.
        pairs: The student's layers and the teacher's.
        of: What is compared of them.
        count: What the sum is divided by.
        loss: Of the student's layer, what it and its teacher's gave, and the batch.
    """
    if not pairs:
        return None

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        given, taught = getattr(mine, of), getattr(theirs, of)
        return torch.stack([loss(i, given[i], taught[j], batch).sum for i, j in pairs]).sum()

    return LayerTerm(settings.kind, settings.weight, *taps_of(pairs, of), count, sum_of)


def taps_of(pairs: Pairs, of: Seeable) -> tuple[Taps, Taps]:
    """Return what must be seen of student and teacher for pairs of their layers."""
    mine, theirs = (frozenset(layers) for layers in zip(*pairs, strict=True))
    if of == "hidden":
        return Taps(hidden=mine), Taps(hidden=theirs)
    return Taps(attention=mine), Taps(attention=theirs)


def num_real(batch: Batch) -> float:
    """Return how many tokens of a batch are not padding."""
    return float(batch["attention_mask"].sum())


def same(what: str, mine: int, theirs: int) -> None:
    """Refuse a student and a teacher that differ in what is compared.

    Raises:
        SettingsError: they do.
    """
    if mine != theirs:
        raise SettingsError(f"the student's {what} is {mine} and the teacher's {theirs}")
