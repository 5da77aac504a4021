"""Every loss ignores padding and gives the gradient of its value; test_verify.py has the values."""

import pytest
import torch
from torch import Tensor

from stages.distillation.pinned import (
    ATTENTION,
    NARROW,
    PROJECTED,
    STUDENT_HIDDEN,
    TEACHER_HIDDEN,
    B,
    H,
    S,
    as_heads,
    wave,
)
from stages.objectives import attention, hidden_states, soft_targets
from stages.objectives.attention import Heads

STUDENT_SCORES, TEACHER_SCORES = wave(B, H, S, S, k=0.8, c=2), wave(B, H, S, S, k=0.35, c=2)


def widen(x: Tensor, value: float) -> Tensor:
    """Append two padded columns along the positions (dimension 1) of a B x S x ... tensor."""
    pad = x.new_full((x.shape[0], 2, *x.shape[2:]), value)
    return torch.cat([x, pad], dim=1)


def wide_heads(scores: Tensor, value: float) -> Heads:
    wide = scores.new_full((B, H, S + 2, S + 2), value)
    wide[:, :, :S, :S] = scores
    return as_heads(wide)


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
            lambda m: hidden_states.state_mse(PROJECTED, TEACHER_HIDDEN, m),
            lambda m: hidden_states.state_mse(widen(PROJECTED, 5), widen(TEACHER_HIDDEN, -3), m),
        ),
        (
            lambda m: attention.score_mse(as_heads(STUDENT_SCORES), as_heads(TEACHER_SCORES), m),
            lambda m: attention.score_mse(
                wide_heads(STUDENT_SCORES, 7), wide_heads(TEACHER_SCORES, -4), m
            ),
        ),
        (
            lambda m: attention.distribution_kl(
                as_heads(STUDENT_SCORES), as_heads(TEACHER_SCORES), m
            ),
            lambda m: attention.distribution_kl(
                wide_heads(STUDENT_SCORES, 7), wide_heads(TEACHER_SCORES, -4), m
            ),
        ),
        (
            lambda m: attention.relation_kl(NARROW, TEACHER_HIDDEN, 2, m),
            lambda m: attention.relation_kl(widen(NARROW, 5), widen(TEACHER_HIDDEN, -3), 2, m),
        ),
        (
            lambda m: attention.relation_kl(NARROW, TEACHER_HIDDEN, 2, m, per_sequence=True),
            lambda m: attention.relation_kl(
                widen(NARROW, 5), widen(TEACHER_HIDDEN, -3), 2, m, per_sequence=True
            ),
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
    ids=[
        "cosine",
        "feature maps",
        "hidden states",
        "scores",
        "attention maps",
        "relations",
        "relations, paper",
        "spans",
    ],
)
def test_padding_changes_no_loss(narrow, wide) -> None:
    assert wide(widen(ATTENTION, 0)).mean.item() == pytest.approx(
        narrow(ATTENTION).mean.item(), rel=1e-12
    )


def test_the_upstream_forms_depend_on_padding() -> None:
    forms = [
        lambda s, t, m: attention.score_mse(s, t, m, upstream=True),
        lambda s, t, m: attention.distribution_kl(s, t, m, upstream=True),
    ]
    for form in forms:
        narrow = form(as_heads(STUDENT_SCORES), as_heads(TEACHER_SCORES), ATTENTION).mean
        wide = form(
            wide_heads(STUDENT_SCORES, 7), wide_heads(TEACHER_SCORES, -4), widen(ATTENTION, 0)
        ).mean
        assert wide.item() != pytest.approx(narrow.item(), rel=1e-3)


@pytest.mark.parametrize("upstream", [False, True])
@pytest.mark.parametrize("loss", [attention.score_mse, attention.distribution_kl])
def test_gradient_of_attention_is_that_of_its_value(loss, upstream: bool) -> None:
    queries, keys = (wave(2, 2, 4, 3, k=k).requires_grad_() for k in (0.7, 1.9))
    teacher = Heads(wave(2, 2, 4, 5, k=0.3), wave(2, 2, 4, 5, k=1.1), 0.4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])

    def value(q: Tensor, k: Tensor) -> Tensor:
        return loss(Heads(q, k, 0.6), teacher, mask, upstream=upstream).mean

    assert torch.autograd.gradcheck(value, (queries, keys))


@pytest.mark.parametrize("per_sequence", [False, True])
def test_gradient_of_relations_is_that_of_their_value(per_sequence: bool) -> None:
    student = NARROW.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: (
            attention.relation_kl(s, TEACHER_HIDDEN, 2, ATTENTION, per_sequence=per_sequence).mean
        ),
        (student,),
    )


def test_scores_equal_those_of_the_textbook() -> None:
    queries, keys = wave(2, 2, 4, 3, k=0.7), wave(2, 2, 4, 3, k=1.9)
    taught = Heads(wave(2, 2, 4, 5, k=0.3), wave(2, 2, 4, 5, k=1.1), 0.4)
    everywhere = torch.ones(2, 4)
    scores, targets = queries @ keys.mT * 0.6, taught.queries_BHSd @ taught.keys_BHSd.mT * 0.4
    mine = attention.score_mse(Heads(queries, keys, 0.6), taught, everywhere.long()).mean
    torch.testing.assert_close(mine, torch.nn.functional.mse_loss(scores, targets))
    kl = attention.distribution_kl(Heads(queries, keys, 0.6), taught, everywhere.long()).mean
    expected = torch.nn.functional.kl_div(
        scores.log_softmax(-1).flatten(0, 2),
        targets.log_softmax(-1).flatten(0, 2),
        reduction="batchmean",
        log_target=True,
    )
    torch.testing.assert_close(kl, expected)


def test_no_table_of_scores_is_kept_for_the_backward_pass() -> None:
    kept: list[torch.Size] = []
    queries = torch.randn(2, 3, 40, 4, requires_grad=True)
    keys = torch.randn(2, 3, 40, 4, requires_grad=True)
    taught = Heads(torch.randn(2, 3, 40, 4), torch.randn(2, 3, 40, 4), 1.0)

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention.score_mse(Heads(queries, keys, 1.0), taught, torch.ones(2, 40).long())
    assert kept == [queries.shape, keys.shape]


def test_only_the_student_receives_gradient() -> None:
    teacher = TEACHER_HIDDEN.clone().requires_grad_()
    for loss in (
        lambda s: hidden_states.normalised_mse(s, teacher, ATTENTION),
        lambda s: attention.relation_kl(s, teacher, 2, ATTENTION),
    ):
        student = STUDENT_HIDDEN.clone().requires_grad_()
        loss(student).mean.backward()
        assert student.grad is not None
        assert teacher.grad is None


def test_relation_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width 8 cannot be split into 3 relation heads"):
        attention.relation_kl(STUDENT_HIDDEN, TEACHER_HIDDEN, 3, ATTENTION)


def test_scores_of_another_number_of_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="student has 2 attention heads and the teacher 3"):
        attention.score_mse(as_heads(STUDENT_SCORES), as_heads(wave(B, 3, S, S, k=1)), ATTENTION)
