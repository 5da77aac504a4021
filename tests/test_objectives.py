"""Every loss meets the value pinned for it, in float64, from tensors without random numbers."""

import math

import pytest
import torch
from torch import Tensor

from stages.objectives import attention, hidden_states, soft_targets
from stages.objectives.soft_targets import label_ce, per_class, soft_target_ce, soft_target_kl

B, S, V, D, H = 2, 6, 11, 8, 2


def wave(*shape: int, k: float, c: float = 1.0) -> Tensor:
    """c * sin(k * i) for i = 1...n, in row-major order."""
    i = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (c * torch.sin(k * i)).view(shape)


ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
LABELS = torch.full((B, S), -100)
LABELS[0, 2], LABELS[1, 1] = 3, 7
REAL = ATTENTION.bool()
MASKED = LABELS != -100
STUDENT, TEACHER = wave(B, S, V, k=1, c=1.5), wave(B, S, V, k=0.7, c=3)
STUDENT_HIDDEN, TEACHER_HIDDEN = wave(B, S, D, k=1.3), wave(B, S, D, k=0.9)
STUDENT_SCORES, TEACHER_SCORES = wave(B, H, S, S, k=0.8, c=2), wave(B, H, S, S, k=0.35, c=2)
NARROW = wave(B, S, 4, k=1.1)
CLASSES_S, CLASSES_T = wave(2, 3, k=0.9, c=2), wave(2, 3, k=0.45, c=2)


def triple(rows: Tensor) -> Tensor:
    ce = soft_target_kl(STUDENT[rows], TEACHER[rows], 2.0).mean
    mlm = label_ce(STUDENT[REAL], LABELS[REAL]).mean
    return 5 * ce + 2 * mlm + hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, ATTENTION).mean


def span() -> tuple[Tensor, Tensor]:
    start, end = wave(B, S, k=0.3), wave(B, S, k=0.5)
    taught = wave(B, S, k=0.4, c=2), wave(B, S, k=0.6, c=2)
    kl = soft_targets.span_kl(start, end, *taught).mean
    gold = torch.tensor([1, 0]), torch.tensor([3, 2])
    return kl, soft_targets.span_ce(start, end, *gold).mean


def patience(**form: bool) -> Tensor:
    return hidden_states.patience(wave(2, 5, 8, k=0.77), wave(2, 5, 8, k=0.55), **form).mean


def pkd_terms() -> tuple[Tensor, Tensor]:
    hard = label_ce(CLASSES_S, torch.tensor([0, 2])).mean
    return hard, per_class(soft_target_kl(CLASSES_S, CLASSES_T, 10.0), 3).mean


PINNED = {
    "distilbert ce, all": (
        lambda: soft_target_kl(STUDENT[REAL], TEACHER[REAL], 2.0).mean,
        2.078158185,
    ),
    "distilbert ce, masked": (
        lambda: soft_target_kl(STUDENT[MASKED], TEACHER[MASKED], 2.0).mean,
        2.131300542,
    ),
    "distilbert mlm": (lambda: label_ce(STUDENT[REAL], LABELS[REAL]).mean, 2.346400429),
    "distilbert cosine": (
        lambda: hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, ATTENTION).mean,
        0.983787152,
    ),
    "distilbert triple, all": (lambda: triple(REAL), 16.067378933),
    "distilbert triple, masked": (lambda: triple(MASKED), 16.333090723),
    "squad kl": (lambda: span()[0], 0.288550083),
    "squad ce": (lambda: span()[1], 1.753236032),
    "squad total": (lambda: 0.5 * span()[0] + 0.5 * span()[1], 1.020893057),
    "tinybert attention, upstream": (
        lambda: attention.score_mse_upstream(STUDENT_SCORES, TEACHER_SCORES, ATTENTION).mean,
        3.255373342,
    ),
    "tinybert attention, clean": (
        lambda: attention.score_mse(STUDENT_SCORES, TEACHER_SCORES, ATTENTION).mean,
        3.923268233,
    ),
    "tinybert hidden": (
        lambda: (
            hidden_states.projected_mse(
                NARROW, TEACHER_HIDDEN, wave(8, 4, k=0.21, c=0.5), wave(8, k=0.33, c=0.1)
            ).mean
        ),
        0.634874604,
    ),
    "tinybert soft ce, upstream": (
        lambda: per_class(soft_target_ce(CLASSES_S, CLASSES_T), 3).mean,
        0.399585746,
    ),
    "soft ce, textbook": (lambda: soft_target_ce(CLASSES_S, CLASSES_T).mean, 1.198757237),
    "pkd ce": (lambda: pkd_terms()[0], 1.182093484),
    "pkd kl, upstream": (lambda: pkd_terms()[1], 0.067930537),
    "pkd kl, batchmean": (
        lambda: soft_target_kl(CLASSES_S, CLASSES_T, 10.0).mean,
        0.203791610,
    ),
    "pkd patience, normalised": (lambda: patience(), 0.261695303),
    "pkd patience, un-normalised": (lambda: patience(normalise=False), 1.053758141),
    "pkd patience, paper": (lambda: patience(paper_form=True), 10.467812139),
    "pkd total": (
        lambda: 0.3 * pkd_terms()[0] + 0.7 * pkd_terms()[1] + 100 * patience(),
        26.571709769,
    ),
    "mobilebert mixed labels": (
        lambda: soft_targets.mixed_label_ce(STUDENT[REAL], TEACHER[REAL], LABELS[REAL]).mean,
        2.520025562,
    ),
    "mobilebert feature maps": (
        lambda: hidden_states.normalised_mse(STUDENT_HIDDEN, TEACHER_HIDDEN).mean,
        1.953796355,
    ),
    "mobilebert attention ce": (
        lambda: attention.distribution_ce(STUDENT_SCORES, TEACHER_SCORES).mean,
        2.544599793,
    ),
    "mobilebert attention kl": (
        lambda: attention.distribution_kl(STUDENT_SCORES, TEACHER_SCORES).mean,
        1.025300149,
    ),
    "minilm relation": (
        lambda: attention.relation_kl(NARROW, TEACHER_HIDDEN, 2, ATTENTION).mean,
        0.231786156,
    ),
    "minilm relation, per sequence": (
        lambda: attention.relation_kl(NARROW, TEACHER_HIDDEN, 2, ATTENTION, per_sequence=True).mean,
        0.214894403,
    ),
}


@pytest.mark.parametrize("name", PINNED)
def test_loss_meets_its_pinned_value(name: str) -> None:
    compute, expected = PINNED[name]
    assert compute().item() == pytest.approx(expected, abs=5e-9)


def widen(x: Tensor, value: float) -> Tensor:
    """Append two padded columns along the positions (dimension 1) of a B x S x ... tensor."""
    pad = x.new_full((x.shape[0], 2, *x.shape[2:]), value)
    return torch.cat([x, pad], dim=1)


def widen_scores(x: Tensor, value: float) -> Tensor:
    wide = x.new_full((B, H, S + 2, S + 2), value)
    wide[:, :, :S, :S] = x
    return wide


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (
            lambda m: hidden_states.cosine(STUDENT_HIDDEN, TEACHER_HIDDEN, m),
            lambda m: hidden_states.cosine(widen(STUDENT_HIDDEN, 5), widen(TEACHER_HIDDEN, -3), m),
        ),
        (
            lambda m: hidden_states.normalised_mse(STUDENT_HIDDEN, TEACHER_HIDDEN, m),
            lambda m: hidden_states.normalised_mse(
                widen(STUDENT_HIDDEN, 5), widen(TEACHER_HIDDEN, -3), m
            ),
        ),
        (
            lambda m: hidden_states.projected_mse(
                NARROW, TEACHER_HIDDEN, wave(8, 4, k=0.21), attention_mask_BS=m
            ),
            lambda m: hidden_states.projected_mse(
                widen(NARROW, 5), widen(TEACHER_HIDDEN, -3), wave(8, 4, k=0.21), attention_mask_BS=m
            ),
        ),
        (
            lambda m: attention.score_mse(STUDENT_SCORES, TEACHER_SCORES, m),
            lambda m: attention.score_mse(
                widen_scores(STUDENT_SCORES, 7), widen_scores(TEACHER_SCORES, -4), m
            ),
        ),
        (
            lambda m: attention.relation_kl(NARROW, TEACHER_HIDDEN, 2, m),
            lambda m: attention.relation_kl(widen(NARROW, 5), widen(TEACHER_HIDDEN, -3), 2, m),
        ),
        (
            lambda m: soft_targets.span_kl(
                wave(B, S, k=0.3),
                wave(B, S, k=0.5),
                wave(B, S, k=0.4),
                wave(B, S, k=0.6),
                attention_mask_BS=m,
            ),
            lambda m: soft_targets.span_kl(
                widen(wave(B, S, k=0.3), 4),
                widen(wave(B, S, k=0.5), 4),
                widen(wave(B, S, k=0.4), -2),
                widen(wave(B, S, k=0.6), -2),
                attention_mask_BS=m,
            ),
        ),
    ],
    ids=["cosine", "feature maps", "projected", "scores", "relations", "spans"],
)
def test_padding_changes_no_loss(narrow, wide) -> None:
    assert wide(widen(ATTENTION, 0)).mean.item() == pytest.approx(
        narrow(ATTENTION).mean.item(), rel=1e-12
    )


def test_only_the_student_receives_gradient() -> None:
    student = STUDENT_HIDDEN.clone().requires_grad_()
    teacher = TEACHER_HIDDEN.clone().requires_grad_()
    hidden_states.normalised_mse(student, teacher, ATTENTION).mean.backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_relation_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 cannot be split into 3 relation heads"):
        attention.relation_kl(STUDENT_HIDDEN, TEACHER_HIDDEN, 3, ATTENTION)
