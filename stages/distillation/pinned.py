"""The value that every objective must have, in float64, on tensors made without random numbers.

The tensors are c * sin(k * i) for i = 1...n in row-major order: two sequences of six tokens, the
second with two of padding, two attention heads, a vocabulary of eleven. The values were worked out
apart from this code, from the papers' formulas and from what the released programs compute. Losses
on attention are given scores here, as queries whose keys are the unit vectors.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.objectives import attention, hidden_states, soft_targets
from stages.objectives.attention import Heads
from stages.objectives.soft_targets import label_ce, per_class, soft_target_ce, soft_target_kl

B, S, V, D, H = 2, 6, 11, 8, 2
TOLERANCE = 5e-9


def wave(*shape: int, k: float, c: float = 1.0) -> Tensor:
    """Return c * sin(k * i) for i = 1...n, in row-major order."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (c * torch.sin(k * i)).view(shape)


def as_heads(scores_BHSS: Tensor) -> Heads:
    """Return queries and keys whose scores are these."""
    eye = torch.eye(scores_BHSS.shape[-1], dtype=scores_BHSS.dtype)
    return Heads(scores_BHSS, eye.expand_as(scores_BHSS).contiguous(), 1.0)


ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
EVERYWHERE = torch.ones_like(ATTENTION)
LABELS = torch.full((B, S), -100)
LABELS[0, 2], LABELS[1, 1] = 3, 7
REAL = ATTENTION.bool()
MASKED = LABELS != -100
STUDENT, TEACHER = wave(B, S, V, k=1, c=1.5), wave(B, S, V, k=0.7, c=3)
STUDENT_HIDDEN, TEACHER_HIDDEN = wave(B, S, D, k=1.3), wave(B, S, D, k=0.9)
STUDENT_HEADS = as_heads(wave(B, H, S, S, k=0.8, c=2))
TEACHER_HEADS = as_heads(wave(B, H, S, S, k=0.35, c=2))
NARROW = wave(B, S, 4, k=1.1)
PROJECTED = F.linear(NARROW, wave(8, 4, k=0.21, c=0.5), wave(8, k=0.33, c=0.1))
CLASSES_S, CLASSES_T = wave(2, 3, k=0.9, c=2), wave(2, 3, k=0.45, c=2)


@dataclass(frozen=True, slots=True)
class Pinned:
    """An objective in one of its forms, and the value it must have."""

    recipe: str
    objective: str
    form: str
    value: float
    compute: Callable[[], Tensor]


def _triple(rows: Tensor) -> Tensor:
    ce = soft_target_kl(STUDENT[rows], TEACHER[rows], 2.0).mean
    mlm = label_ce(STUDENT[REAL], LABELS[REAL]).mean
    return 5 * ce + 2 * mlm + hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, ATTENTION).mean


def _scores(**form: bool) -> Tensor:
    return attention.score_mse(STUDENT_HEADS, TEACHER_HEADS, ATTENTION, **form).mean


def _maps(**form: bool) -> Tensor:
    return attention.distribution_kl(STUDENT_HEADS, TEACHER_HEADS, EVERYWHERE, **form).mean


def _span() -> tuple[Tensor, Tensor]:
    start, end = wave(B, S, k=0.3), wave(B, S, k=0.5)
    taught = wave(B, S, k=0.4, c=2), wave(B, S, k=0.6, c=2)
    kl = soft_targets.span_kl(start, end, *taught).mean
    gold = torch.tensor([1, 0]), torch.tensor([3, 2])
    return kl, soft_targets.span_ce(start, end, *gold).mean


def _patience(**form: bool) -> Tensor:
    return hidden_states.patience(wave(2, 5, 8, k=0.77), wave(2, 5, 8, k=0.55), **form).mean


def _pkd_terms() -> tuple[Tensor, Tensor]:
    hard = label_ce(CLASSES_S, torch.tensor([0, 2])).mean
    return hard, per_class(soft_target_kl(CLASSES_S, CLASSES_T, 10.0), 3).mean


def _relation(*, per_sequence: bool) -> Tensor:
    return attention.relation_kl(
        NARROW, TEACHER_HIDDEN, 2, ATTENTION, per_sequence=per_sequence
    ).mean


# fmt: off
PINNED = (
    Pinned("DistilBERT", "soft targets, T = 2", "all positions", 2.078158185,
           lambda: soft_target_kl(STUDENT[REAL], TEACHER[REAL], 2.0).mean),
    Pinned("DistilBERT", "soft targets, T = 2", "masked positions", 2.131300542,
           lambda: soft_target_kl(STUDENT[MASKED], TEACHER[MASKED], 2.0).mean),
    Pinned("DistilBERT", "masked language model", "", 2.346400429,
           lambda: label_ce(STUDENT[REAL], LABELS[REAL]).mean),
    Pinned("DistilBERT", "cosine", "", 0.983787152,
           lambda: hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, ATTENTION).mean),
    Pinned("DistilBERT", "5 soft + 2 mlm + 1 cosine", "all positions", 16.067378933,
           lambda: _triple(REAL)),
    Pinned("DistilBERT", "5 soft + 2 mlm + 1 cosine", "masked positions", 16.333090723,
           lambda: _triple(MASKED)),
    Pinned("DistilBERT (D)", "SQuAD soft targets", "upstream", 0.288550083, lambda: _span()[0]),
    Pinned("DistilBERT (D)", "SQuAD labels", "", 1.753236032, lambda: _span()[1]),
    Pinned("DistilBERT (D)", "0.5 soft + 0.5 labels", "upstream", 1.020893057,
           lambda: 0.5 * _span()[0] + 0.5 * _span()[1]),
    Pinned("TinyBERT", "attention scores", "upstream", 3.255373342, lambda: _scores(upstream=True)),
    Pinned("TinyBERT", "attention scores", "clean", 3.923268233, _scores),
    Pinned("TinyBERT", "hidden states", "upstream", 0.634874604,
           lambda: hidden_states.state_mse(PROJECTED, TEACHER_HIDDEN).mean),
    Pinned("TinyBERT", "prediction", "upstream", 0.399585746,
           lambda: per_class(soft_target_ce(CLASSES_S, CLASSES_T), 3).mean),
    Pinned("TinyBERT, PD", "prediction", "paper", 1.198757237,
           lambda: soft_target_ce(CLASSES_S, CLASSES_T).mean),
    Pinned("BERT-PKD", "labels", "", 1.182093484, lambda: _pkd_terms()[0]),
    Pinned("BERT-PKD", "soft targets, T = 10", "upstream", 0.067930537, lambda: _pkd_terms()[1]),
    Pinned("BERT-PKD", "soft targets, T = 10", "paper", 0.203791610,
           lambda: soft_target_kl(CLASSES_S, CLASSES_T, 10.0).mean),
    Pinned("BERT-PKD", "patience", "upstream, normalised", 0.261695303, lambda: _patience()),
    Pinned("BERT-PKD", "patience", "upstream, not normalised", 1.053758141,
           lambda: _patience(normalise=False)),
    Pinned("BERT-PKD", "patience", "paper, normalised", 10.467812139,
           lambda: _patience(paper_form=True)),
    Pinned("BERT-PKD", "0.3 labels + 0.7 soft + 100 patience", "upstream", 26.571709769,
           lambda: 0.3 * _pkd_terms()[0] + 0.7 * _pkd_terms()[1] + 100 * _patience()),
    Pinned("MobileBERT", "half label, half teacher", "masked positions", 2.520025562,
           lambda: soft_targets.mixed_label_ce(STUDENT[REAL], TEACHER[REAL], LABELS[REAL]).mean),
    Pinned("MobileBERT", "feature maps", "upstream", 1.953796355,
           lambda: hidden_states.normalised_mse(STUDENT_HIDDEN, TEACHER_HIDDEN).mean),
    Pinned("MobileBERT", "attention maps", "upstream", 2.544599793, lambda: _maps(upstream=True)),
    Pinned("MobileBERT", "attention maps", "paper", 1.025300149, _maps),
    Pinned("MiniLMv2", "one relation", "per token", 0.231786156,
           lambda: _relation(per_sequence=False)),
    Pinned("MiniLMv2", "one relation", "paper", 0.214894403, lambda: _relation(per_sequence=True)),
)
# fmt: on
