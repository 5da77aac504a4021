"""The objectives that look inside student and teacher, as terms of a loss.

A term says what it must see of both, what its sum over a whole batch is divided by, and its sum
over a micro-batch. It enters the loss as weight x sum / count, so that micro-batches and processes
add up.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.distillation.matching import Pairs, evenly, named, patience_pairs
from stages.errors import SettingsError
from stages.objectives.attention import distribution_kl, relation_kl, score_mse
from stages.objectives.hidden_states import normalised_mse, patience, state_mse
from stages.params import (
    AttentionMaps,
    AttentionScores,
    Cosine,
    FeatureMaps,
    HiddenStates,
    ObjectiveSettings,
    Patience,
    Relations,
)
from stages.students.taps import Seen, Taps
from stages.training.batches import Batch


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


def layer_term(
    settings: ObjectiveSettings,
    student: Any,
    teacher: Any,
    projections: nn.ModuleDict,
    only_layer: int | None = None,
) -> LayerTerm | None:
    """Return the term of an objective, or None where it has none in the layers.

    Args:
        settings: Of the objective.
        student: The student's configuration.
        teacher: The teacher's.
        projections: Of the whole recipe; what this objective learns is added here, once.
        only_layer: Keep only what concerns this layer of the student; the term's divisor stays
            that of all layers. None keeps every layer.

    Raises:
        SettingsError: the objective does not fit this student and this teacher.
    """
    try:
        if isinstance(settings, HiddenStates | FeatureMaps):
            return _hidden_term(settings, student, teacher, projections, only_layer)
        if isinstance(settings, AttentionScores | AttentionMaps):
            return _attention_term(settings, student, teacher, only_layer)
        if isinstance(settings, Relations):
            return _relation_term(settings, student, teacher)
        if isinstance(settings, Patience):
            return _patience_term(settings, student, teacher)
        if isinstance(settings, Cosine):
            _same("width", student.hidden_size, teacher.hidden_size)
    except SettingsError as error:
        raise SettingsError(f"objective {settings.kind}: {error}") from error
    return None


def _hidden_term(
    settings: HiddenStates | FeatureMaps,
    student: Any,
    teacher: Any,
    projections: nn.ModuleDict,
    only_layer: int | None,
) -> LayerTerm | None:
    """TinyBERT sums over layers, MobileBERT averages over them and normalises both sides."""
    is_tinybert = isinstance(settings, HiddenStates)
    all_pairs = _pairs(settings.layers, student, teacher, embeddings=is_tinybert)
    pairs = _of_layer(all_pairs, only_layer)
    width = teacher.hidden_size * (1 if is_tinybert else len(all_pairs))
    clean = settings.reduction == "clean"
    loss = state_mse if is_tinybert else normalised_mse
    learnt = {
        layer: _projection(settings, layer, student, teacher, projections) for layer, _ in pairs
    }

    def count(batch: Batch) -> float:
        return width * (_num_real(batch) if clean else batch["attention_mask"].numel())

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        mask_BS = batch["attention_mask"] if clean else None
        return _sum(
            loss(learnt[i](mine.hidden[i]), theirs.hidden[j], mask_BS).sum for i, j in pairs
        )

    if not pairs:
        return None
    taps = [Taps(hidden=frozenset(layers)) for layers in zip(*pairs, strict=True)]
    return LayerTerm(settings.kind, settings.weight, taps[0], taps[1], count, sum_of)


def _projection(
    settings: HiddenStates | FeatureMaps,
    layer: int,
    student: Any,
    teacher: Any,
    projections: nn.ModuleDict,
) -> nn.Module:
    """Return what a layer's states go through before they are compared, made where it is new."""
    if settings.projection == "none":
        _same("width", student.hidden_size, teacher.hidden_size)
        return nn.Identity()
    name = {
        "shared": f"{settings.kind}_shared",
        "per_kind": f"{settings.kind}_{'layers' if layer else 'embeddings'}",
        "per_layer": f"{settings.kind}_layer_{layer}",
    }[settings.projection]
    if name not in projections:
        projections[name] = nn.Linear(student.hidden_size, teacher.hidden_size)
    return projections[name]


def _attention_term(
    settings: AttentionScores | AttentionMaps, student: Any, teacher: Any, only_layer: int | None
) -> LayerTerm | None:
    """TinyBERT sums over layers, MobileBERT averages over them."""
    num_heads = student.num_attention_heads
    _same("number of attention heads", num_heads, teacher.num_attention_heads)
    all_pairs = _pairs(settings.layers, student, teacher, embeddings=False)
    pairs = _of_layer(all_pairs, only_layer)
    is_tinybert = isinstance(settings, AttentionScores)
    if not is_tinybert:
        _attend_everywhere(all_pairs, student, teacher)
    loss = score_mse if is_tinybert else distribution_kl
    upstream = settings.reduction == "upstream"

    def count(batch: Batch) -> float:
        mask_BS = batch["attention_mask"]
        if is_tinybert:
            all_keys = mask_BS.numel() * mask_BS.shape[1]
            return num_heads * (all_keys if upstream else float(mask_BS.sum(dim=1).square().sum()))
        queries = mask_BS.numel() if upstream else _num_real(batch)
        return num_heads * len(all_pairs) * queries

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        return _sum(
            loss(
                mine.attention[i].heads,
                theirs.attention[j].heads,
                batch["attention_mask"],
                upstream=upstream,
            ).sum
            for i, j in pairs
        )

    if not pairs:
        return None
    taps = [Taps(attention=frozenset(layers)) for layers in zip(*pairs, strict=True)]
    return LayerTerm(settings.kind, settings.weight, taps[0], taps[1], count, sum_of)


def _relation_term(settings: Relations, student: Any, teacher: Any) -> LayerTerm:
    """MiniLMv2 looks at one layer, and sums over queries, keys and values."""
    layers = []
    for whose, config, wanted in (
        ("student", student, settings.student_layer),
        ("teacher", teacher, settings.teacher_layer),
    ):
        # MobileBERT attends over the width of its bottleneck.
        width = getattr(config, "true_hidden_size", config.hidden_size)
        if width % settings.num_heads:
            raise SettingsError(
                f"num_heads = {settings.num_heads} does not divide the {whose}'s width {width}"
            )
        depth = config.num_hidden_layers
        if wanted is not None and wanted > depth:
            raise SettingsError(f"{whose}_layer = {wanted}: the {whose} has {depth} layers")
        layers.append(wanted or depth)
    per_sequence = settings.reduction == "paper"

    def count(batch: Batch) -> float:
        return len(batch["attention_mask"]) if per_sequence else _num_real(batch)

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        return _sum(
            relation_kl(
                mine.attention[layers[0]].joined(name),
                theirs.attention[layers[1]].joined(name),
                settings.num_heads,
                batch["attention_mask"],
                per_sequence=per_sequence,
            ).sum
            for name in settings.of
        )

    taps = [Taps(attention=frozenset({layer})) for layer in layers]
    return LayerTerm(settings.kind, settings.weight, taps[0], taps[1], count, sum_of)


def _patience_term(settings: Patience, student: Any, teacher: Any) -> LayerTerm:
    """PKD looks at the first token of intermediate layers."""
    _same("width", student.hidden_size, teacher.hidden_size)
    pairs = patience_pairs(settings.layers, student.num_hidden_layers, teacher.num_hidden_layers)
    paper = settings.reduction == "paper"

    def count(batch: Batch) -> float:
        per_sequence = 1 if paper else len(pairs) * teacher.hidden_size
        return len(batch["attention_mask"]) * per_sequence

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:  # noqa: ARG001
        mine_BLD = torch.stack([mine.hidden[i][:, 0] for i, _ in pairs], dim=1)
        theirs_BLD = torch.stack([theirs.hidden[j][:, 0] for _, j in pairs], dim=1)
        return patience(mine_BLD, theirs_BLD, normalise=settings.normalise, paper_form=paper).sum

    taps = [Taps(hidden=frozenset(layers)) for layers in zip(*pairs, strict=True)]
    return LayerTerm(settings.kind, settings.weight, taps[0], taps[1], count, sum_of)


def _pairs(
    given: Sequence[tuple[int, int]] | None, student: Any, teacher: Any, *, embeddings: bool
) -> Pairs:
    depths = student.num_hidden_layers, teacher.num_hidden_layers
    if given is None:
        return evenly(*depths, embeddings=embeddings)
    return named(list(given), *depths, lowest=0 if embeddings else 1)


def _of_layer(pairs: Pairs, only_layer: int | None) -> Pairs:
    return tuple(pair for pair in pairs if only_layer in (None, pair[0]))


def _same(what: str, mine: int, theirs: int) -> None:
    if mine != theirs:
        raise SettingsError(f"the student's {what} is {mine} and the teacher's {theirs}")


def _attend_everywhere(pairs: Pairs, student: Any, teacher: Any) -> None:
    """Refuse ModernBERT's local layers: what is compared is a distribution over all tokens."""
    for whose, config, place in (("student", student, 0), ("teacher", teacher, 1)):
        kinds = getattr(config, "layer_types", None) or ()
        for pair in pairs:
            if kinds and kinds[pair[place] - 1] == "sliding_attention":
                raise SettingsError(
                    f"the {whose}'s layer {pair[place]} attends to a token's neighbours alone: "
                    "name pairs of layers that attend to everything, or take attention_scores"
                )


def _num_real(batch: Batch) -> float:
    return float(batch["attention_mask"].sum())


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
