"""A recipe's phases as what is trained one after the other.

Most phases are one stretch of training. A progressive one (MobileBERT's progressive knowledge
transfer) is as many as the student has layers: each with the loss of one layer, which learns at the
full rate while the layers below it learn at a tenth of it and those above wait.
"""

import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from stages.corpus.reading import Sequences
from stages.distillation.layer_terms import layer_term
from stages.distillation.phase_loss import PhaseLoss, triple_of
from stages.errors import SettingsError
from stages.params import Distill, Masking, Phase, Recipe, Schedule
from stages.students.heads import MaskedLM
from stages.training.batches import Batch, MaskedBatches, PairBatches
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.steps import Objective

LOWER_LAYERS_RATE = 0.1
"""Learning rate of the layers below the one that is taught, relative to it."""
_LAYER = re.compile(r"\.layers?\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Stretch:
    """One call of the loop."""

    name: str
    phase: Phase
    schedule: Schedule
    masking: Masking
    num_steps: int
    only_layer: int | None = None


def stretches(
    recipe: Recipe, settings: Distill, num_sequences: int, num_layers: int
) -> list[Stretch]:
    """Return what a recipe trains, in order, with every length scaled.

    Args:
        recipe: Of the student.
        settings: Where a phase has no schedule or masking, the shared one.
        num_sequences: Of the corpus, for schedules in epochs.
        num_layers: The student's; a progressive phase shares its steps among them.
    """
    found = []
    for phase in recipe.phases:
        schedule, masking = phase.schedule or settings.schedule, phase.masking or settings.masking
        num_steps = max(1, round(schedule.total_steps(num_sequences) * recipe.scale_steps))
        if not phase.progressive:
            found.append(Stretch(phase.name, phase, schedule, masking, num_steps))
            continue
        each = max(1, num_steps // num_layers)
        found += [
            Stretch(f"{phase.name}_{layer}", phase, schedule, masking, each, layer)
            for layer in range(1, num_layers + 1)
        ]
    return found


def batches_of(
    stretch: Stretch, loss: PhaseLoss, sequences: Sequences, settings: Distill, seed: int
) -> MaskedBatches:
    """Return the batches of a stretch; seeded, they are its own order and masks."""
    # Drawing where soft targets are compared takes a third of a batch's time.
    fraction = settings.sampled_fraction if loss.samples else None
    size = stretch.schedule.batch_sequences
    made = PairBatches if stretch.phase.pairs else MaskedBatches
    return made(sequences, size, seed, stretch.masking, fraction)


def phase_losses(
    plan: list[Stretch],
    student: MaskedLM,
    teacher: FrozenTeacher,
    teacher_config: Any,
    settings: Distill,
    *,
    seed: int,
) -> list[PhaseLoss]:
    """Return the loss of every stretch; what objectives learn beside the student, they share.

    Raises:
        SettingsError: an objective does not fit this student and this teacher; names the phase.
    """
    projections = nn.ModuleDict()
    losses = [
        _loss_of(stretch, student, teacher, teacher_config, projections, settings)
        for stretch in plan
    ]
    draw(projections, seed, student.config.initializer_range)
    projections.to(student.device)
    return losses


def _loss_of(
    stretch: Stretch,
    student: MaskedLM,
    teacher: FrozenTeacher,
    teacher_config: Any,
    projections: nn.ModuleDict,
    settings: Distill,
) -> PhaseLoss:
    objectives = stretch.phase.objectives
    try:
        terms = [
            layer_term(objective, student.config, teacher_config, projections, stretch.only_layer)
            for objective in objectives
        ]
        # In a progressive phase only the layer's own losses count.
        triple = None
        if stretch.only_layer is None:
            triple = triple_of(objectives, student, teacher, settings)
    except SettingsError as error:
        raise SettingsError(f"phase {stretch.phase.name}: {error}") from error
    found = [term for term in terms if term is not None]
    if not found and triple is None:
        raise SettingsError(
            f"phase {stretch.phase.name}: no objective concerns layer {stretch.only_layer}"
        )
    return PhaseLoss(student, teacher, triple, found, projections)


def rate_factors(loss: PhaseLoss, only_layer: int | None) -> dict[str, float]:
    """Return what the learning rate of each parameter is multiplied by; 0 holds it still."""
    return {name: _rate(name, only_layer) for name, _ in loss.named_parameters()}


def _rate(name: str, only_layer: int | None) -> float:
    if only_layer is None or name.startswith("projections."):
        return 1.0
    layer = _LAYER.search(name)
    if layer is None:
        # Embeddings and classifier were copied from the teacher and stay.
        return 0.0
    index = int(layer[1]) + 1
    return 1.0 if index == only_layer else LOWER_LAYERS_RATE if index < only_layer else 0.0


def hold_unreached(
    loss: nn.Module, batch: Batch, device: torch.device, factors: dict[str, float] | None = None
) -> None:
    """Let learn what a loss reaches and its rates allow, and hold everything else.

    The last layer's output under a loss on attention, or the head where no objective asks for
    logits, gets no gradient: processes would wait for it for ever.
    """
    for name, parameter in loss.named_parameters():
        parameter.requires_grad_(factors is None or factors[name] > 0)
    loss.train()
    one = {name: tensor[:1] for name, tensor in batch.items()}
    on_device = {name: tensor.to(device) for name, tensor in one.items()}
    total, _ = loss(on_device, cast(Objective, loss).counts(one))
    total.backward()
    for parameter in loss.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
    loss.zero_grad(set_to_none=True)


def draw(projections: nn.ModuleDict, seed: int, std: float) -> None:
    """Give projections their first weights, from a seed; biases start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in projections.values():
            assert isinstance(module, nn.Linear)
            module.weight.normal_(0, std, generator=generator)
            module.bias.zero_()
