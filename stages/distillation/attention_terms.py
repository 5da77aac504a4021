"""Objectives on attention: TinyBERT's scores, MobileBERT's maps, MiniLMv2's relations."""

from typing import Any

import torch
from torch import Tensor

from stages.distillation.matching import Pairs, matched
from stages.distillation.terms import LayerTerm, num_real, over_pairs, same, taps_of
from stages.errors import SettingsError
from stages.objectives.attention import distribution_kl, relation_kl, score_mse
from stages.objectives.term import Term
from stages.params import AttentionMaps, AttentionScores, Relations
from stages.students.taps import Attention, Seen
from stages.training.batches import Batch


def map_term(
    settings: AttentionScores | AttentionMaps, student: Any, teacher: Any, only_layer: int | None
) -> LayerTerm | None:
    """TinyBERT sums over layers, MobileBERT averages over them."""
    num_heads = student.num_attention_heads
    same("number of attention heads", num_heads, teacher.num_attention_heads)
    depths = student.num_hidden_layers, teacher.num_hidden_layers
    all_pairs, pairs = matched(settings.layers, *depths, only_layer, embeddings=False)
    is_tinybert = isinstance(settings, AttentionScores)
    if not is_tinybert:
        _attend_everywhere(all_pairs, student, teacher)
    compare = score_mse if is_tinybert else distribution_kl
    upstream = settings.reduction == "upstream"

    def count(batch: Batch) -> float:
        mask_BS = batch["attention_mask"]
        if is_tinybert:
            all_keys = mask_BS.numel() * mask_BS.shape[1]
            return num_heads * (all_keys if upstream else float(mask_BS.sum(dim=1).square().sum()))
        return num_heads * len(all_pairs) * (mask_BS.numel() if upstream else num_real(batch))

    def loss(_: int, mine: Attention, theirs: Attention, batch: Batch) -> Term:
        return compare(mine.heads, theirs.heads, batch["attention_mask"], upstream=upstream)

    return over_pairs(settings, pairs, "attention", count, loss)


def relation_term(settings: Relations, student: Any, teacher: Any) -> LayerTerm:
    """MiniLMv2 looks at one layer, and sums over queries, keys and values."""
    layers: list[int] = []
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
        return len(batch["attention_mask"]) if per_sequence else num_real(batch)

    def sum_of(mine: Seen, theirs: Seen, batch: Batch) -> Tensor:
        terms = [
            relation_kl(
                mine.attention[layers[0]].joined(name),
                theirs.attention[layers[1]].joined(name),
                settings.num_heads,
                batch["attention_mask"],
                per_sequence=per_sequence,
            )
            for name in settings.of
        ]
        return torch.stack([term.sum for term in terms]).sum()

    taps = taps_of(((layers[0], layers[1]),), "attention")
    return LayerTerm(settings.kind, settings.weight, *taps, count, sum_of)


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
