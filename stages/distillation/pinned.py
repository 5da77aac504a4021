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
    compute: Callable[[], Tensor]
    value: float


def _triple(rows: Tensor) -> Tensor:
    ce = soft_target_kl(STUDENT[rows], TEACHER[rows], 2.0).mean
    mlm = label_ce(STUDENT[REAL], LABELS[REAL]).mean
    return 5 * ce + 2 * mlm + hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, ATTENTION).mean


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


PINNED = (
    Pinned(
        "DistilBERT",
        "soft targets, T = 2",
        "all positions",
        lambda: soft_target_kl(STUDENT[REAL], TEACHER[REAL], 2.0).mean,
        2.078158185,
    ),
    Pinned(
        "DistilBERT",
        "soft targets, T = 2",
        "masked positions",
        lambda: soft_target_kl(STUDENT[MASKED], TEACHER[MASKED], 2.0).mean,
        2.131300542,
    ),
    Pinned(
        "DistilBERT",
        "masked language model",
        "",
        lambda: label_ce(STUDENT[REAL], LABELS[REAL]).mean,
        2.346400429,
    ),
    Pinned(
        "DistilBERT",
        "cosine",
        "",
        lambda: hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, ATTENTION).mean,
        0.983787152,
    ),
    Pinned(
        "DistilBERT",
        "5 soft + 2 mlm + 1 cosine",
        "all positions",
        lambda: _triple(REAL),
        16.067378933,
    ),
    Pinned(
        "DistilBERT",
        "5 soft + 2 mlm + 1 cosine",
        "masked positions",
        lambda: _triple(MASKED),
        16.333090723,
    ),
    Pinned("DistilBERT (D)", "SQuAD soft targets", "upstream", lambda: _span()[0], 0.288550083),
    Pinned("DistilBERT (D)", "SQuAD labels", "", lambda: _span()[1], 1.753236032),
    Pinned(
        "DistilBERT (D)",
        "0.5 soft + 0.5 labels",
        "upstream",
        lambda: 0.5 * _span()[0] + 0.5 * _span()[1],
        1.020893057,
    ),
    Pinned(
        "TinyBERT",
        "attention scores",
        "upstream",
        lambda: attention.score_mse(STUDENT_HEADS, TEACHER_HEADS, ATTENTION, upstream=True).mean,
        3.255373342,
    ),
    Pinned(
        "TinyBERT",
        "attention scores",
        "clean",
        lambda: attention.score_mse(STUDENT_HEADS, TEACHER_HEADS, ATTENTION).mean,
        3.923268233,
    ),
    Pinned(
        "TinyBERT",
        "hidden states",
        "upstream",
        lambda: hidden_states.state_mse(PROJECTED, TEACHER_HIDDEN).mean,
        0.634874604,
    ),
    Pinned(
        "TinyBERT",
        "prediction",
        "upstream",
        lambda: per_class(soft_target_ce(CLASSES_S, CLASSES_T), 3).mean,
        0.399585746,
    ),
    Pinned(
        "TinyBERT, PD",
        "prediction",
        "paper",
        lambda: soft_target_ce(CLASSES_S, CLASSES_T).mean,
        1.198757237,
    ),
    Pinned("BERT-PKD", "labels", "", lambda: _pkd_terms()[0], 1.182093484),
    Pinned("BERT-PKD", "soft targets, T = 10", "upstream", lambda: _pkd_terms()[1], 0.067930537),
    Pinned(
        "BERT-PKD",
        "soft targets, T = 10",
        "paper",
        lambda: soft_target_kl(CLASSES_S, CLASSES_T, 10.0).mean,
        0.203791610,
    ),
    Pinned("BERT-PKD", "patience", "upstream, normalised", lambda: _patience(), 0.261695303),
    Pinned(
        "BERT-PKD",
        "patience",
        "upstream, not normalised",
        lambda: _patience(normalise=False),
        1.053758141,
    ),
    Pinned(
        "BERT-PKD",
        "patience",
        "paper, normalised",
        lambda: _patience(paper_form=True),
        10.467812139,
    ),
    Pinned(
        "BERT-PKD",
        "0.3 labels + 0.7 soft + 100 patience",
        "upstream",
        lambda: 0.3 * _pkd_terms()[0] + 0.7 * _pkd_terms()[1] + 100 * _patience(),
        26.571709769,
    ),
    Pinned(
        "MobileBERT",
        "half label, half teacher",
        "masked positions",
        lambda: soft_targets.mixed_label_ce(STUDENT[REAL], TEACHER[REAL], LABELS[REAL]).mean,
        2.520025562,
    ),
    Pinned(
        "MobileBERT",
        "feature maps",
        "upstream",
        lambda: hidden_states.normalised_mse(STUDENT_HIDDEN, TEACHER_HIDDEN).mean,
        1.953796355,
    ),
    Pinned(
        "MobileBERT",
        "attention maps",
        "upstream",
        lambda: (
            attention.distribution_kl(STUDENT_HEADS, TEACHER_HEADS, EVERYWHERE, upstream=True).mean
        ),
        2.544599793,
    ),
    Pinned(
        "MobileBERT",
        "attention maps",
        "paper",
        lambda: attention.distribution_kl(STUDENT_HEADS, TEACHER_HEADS, EVERYWHERE).mean,
        1.025300149,
    ),
    Pinned(
        "MiniLMv2",
        "one relation",
        "per token",
        lambda: _relation(per_sequence=False),
        0.231786156,
    ),
    Pinned(
        "MiniLMv2",
        "one relation",
        "paper",
        lambda: _relation(per_sequence=True),
        0.214894403,
    ),
)
