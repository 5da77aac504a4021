"""Objectives on hidden states: TinyBERT's, MobileBERT's feature maps, and BERT-PKD's patience."""

from typing import Any

import torch
from torch import Tensor, nn

from stages.distillation.matching import matched, patience_pairs
from stages.distillation.terms import LayerTerm, num_real, over_pairs, same, taps_of
from stages.objectives.hidden_states import normalised_mse, patience, state_mse
from stages.objectives.term import Term
from stages.params import FeatureMaps, HiddenStates, Patience
from stages.students.taps import Seen
from stages.training.batches import Batch


def state_term(
    settings: HiddenStates | FeatureMaps,
    student: Any,
    teacher: Any,
    projections: nn.ModuleDict,
    only_layer: int | None,
) -> LayerTerm | None:
    """TinyBERT sums over layers, MobileBERT averages over them and normalises both sides."""
    is_tinybert = isinstance(settings, HiddenStates)
    depths = student.num_hidden_layers, teacher.num_hidden_layers
    all_pairs, pairs = matched(settings.layers, *depths, only_layer, embeddings=is_tinybert)
    width = teacher.hidden_size * (1 if is_tinybert else len(all_pairs))
    clean = settings.reduction == "clean"
    compare = state_mse if is_tinybert else normalised_mse
    learnt = {
        layer: _projection(settings, layer, student, teacher, projections) for layer, _ in pairs
    }

    def count(batch: Batch) -> float:
        return width * (num_real(batch) if clean else batch["attention_mask"].numel())

    def loss(layer: int, mine_BSd: Tensor, theirs_BSD: Tensor, batch: Batch) -> Term:
        mask_BS = batch["attention_mask"] if clean else None
        return compare(learnt[layer](mine_BSd), theirs_BSD, mask_BS)

    return over_pairs(settings, pairs, "hidden", count, loss)


def _projection(
    settings: HiddenStates | FeatureMaps,
    layer: int,
    student: Any,
    teacher: Any,
    projections: nn.ModuleDict,
) -> nn.Module:
    """Return what a layer's states go through before they are compared, made where it is new."""
    if settings.projection == "none":
        same("width", student.hidden_size, teacher.hidden_size)
        return nn.Identity()
    name = {
        "shared": f"{settings.kind}_shared",
        "per_kind": f"{settings.kind}_{'layers' if layer else 'embeddings'}",
        "per_layer": f"{settings.kind}_layer_{layer}",
    }[settings.projection]
    if name not in projections:
        projections[name] = nn.Linear(student.hidden_size, teacher.hidden_size)
    return projections[name]


def patience_term(settings: Patience, student: Any, teacher: Any) -> LayerTerm:
    """PKD looks at the first token of intermediate layers."""
    same("width", student.hidden_size, teacher.hidden_size)
    pairs = patience_pairs(settings.layers, student.num_hidden_layers, teacher.num_hidden_layers)
    paper = settings.reduction == "paper"

    def count(batch: Batch) -> float:
        per_sequence = 1 if paper else len(pairs) * teacher.hidden_size
        return len(batch["attention_mask"]) * per_sequence

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:  # noqa: ARG001
        mine_BLD = torch.stack([mine.hidden[i][:, 0] for i, _ in pairs], dim=1)
        theirs_BLD = torch.stack([theirs.hidden[j][:, 0] for _, j in pairs], dim=1)
        return patience(mine_BLD, theirs_BLD, normalise=settings.normalise, paper_form=paper).sum

    return LayerTerm(settings.kind, settings.weight, *taps_of(pairs, "hidden"), count, sum_of)
