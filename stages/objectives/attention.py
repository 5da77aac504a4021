"""Losses on attention: raw scores (TinyBERT), distributions (MobileBERT), relations (MiniLMv2).

All three compare S x S tables that are products of queries and keys, and S x S tables of every head
and layer are what a step cannot afford to keep: 201 MB a layer at 256 sequences of 128 tokens and
twelve heads. So they are given queries and keys, form one layer's tables, the loss and its gradient
with respect to queries and keys at once, and keep nothing else for the backward pass.

`attention_mask_BS` is 1 on real positions.
"""

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.objectives.term import Term

Form = Literal["mse", "kl", "ce"]


class Heads(NamedTuple):
    """What one layer's attention compares: its scores are queries @ keys.T * scaling."""

    queries_BHSd: Tensor
    keys_BHSd: Tensor
    scaling: float


def score_mse(
    student: Heads, teacher: Heads, attention_mask_BS: Tensor, *, upstream: bool = False
) -> Term:
    """Return the squared error of scores before the softmax (TinyBERT).

    By default over real pairs of query and key. TinyBERT's code sets what a masked key gives to
    zero on both sides, and then averages over everything, padded queries too: with `upstream` the
    value depends on how far a batch is padded.
    """
    mask_BS = attention_mask_BS.to(torch.float32)
    query_BS = torch.ones_like(mask_BS) if upstream else mask_BS
    total = _compare(student, teacher, mask_BS, query_BS, "mse")
    batch, num_heads, length = student.queries_BHSd.shape[:3]
    # Counts stay on the device: reading one would make the host wait for it in every step.
    pairs = batch * length**2 if upstream else attention_mask_BS.sum(dim=1).square().sum()
    return Term(total, pairs * num_heads)


def distribution_kl(
    student: Heads, teacher: Heads, attention_mask_BS: Tensor, *, upstream: bool = False
) -> Term:
    """Return the divergence of attention distributions, per head and query (MobileBERT).

    KL(teacher || student) over real queries, as in the paper; with `upstream` the cross-entropy of
    the released code, which is larger by the teacher's entropy, and padded queries count.
    """
    mask_BS = attention_mask_BS.to(torch.float32)
    query_BS = torch.ones_like(mask_BS) if upstream else mask_BS
    total = _compare(student, teacher, mask_BS, query_BS, "ce" if upstream else "kl")
    num_queries = attention_mask_BS.numel() if upstream else attention_mask_BS.sum()
    return Term(total, num_queries * student.queries_BHSd.shape[1])


def relation_kl(
    student_BSd: Tensor,
    teacher_BSD: Tensor,
    num_relation_heads: int,
    attention_mask_BS: Tensor,
    *,
    per_sequence: bool = False,
) -> Term:
    """Return MiniLMv2's divergence of self-relations of queries, keys or values.

    Vectors of all heads are concatenated and split again into relation heads, so the widths of
    student and teacher may differ. Padded keys take no part; padded queries are not counted.

    Args:
        student_BSd: The student's vectors; d must be a multiple of num_relation_heads.
        teacher_BSD: The teacher's vectors; so must D.
        num_relation_heads: A_r in the paper, 48 for a base teacher, 64 for a large one.
        attention_mask_BS: 1 on real positions.
        per_sequence: Average inside each sequence first, then over sequences (the paper's
            1/(A_r |x|)); otherwise every real query of the batch counts the same.
    """
    mask_BS = attention_mask_BS.to(torch.promote_types(student_BSd.dtype, torch.float32))
    query_BS = mask_BS / num_relation_heads
    if per_sequence:
        query_BS = query_BS / mask_BS.sum(dim=1, keepdim=True)
    total = _compare(
        _relation(student_BSd, num_relation_heads),
        _relation(teacher_BSD, num_relation_heads),
        mask_BS,
        query_BS,
        "kl",
    )
    return Term(total, len(mask_BS) if per_sequence else attention_mask_BS.sum())


def _relation(states_BSD: Tensor, num_heads: int) -> Heads:
    batch, length, width = states_BSD.shape
    if width % num_heads:
        raise ValueError(f"width {width} cannot be split into {num_heads} relation heads")
    heads_BHSd = states_BSD.reshape(batch, length, num_heads, -1).transpose(1, 2)
    return Heads(heads_BHSd, heads_BHSd, (width // num_heads) ** -0.5)


def _compare(
    student: Heads, teacher: Heads, key_BS: Tensor, query_BS: Tensor, form: Form
) -> Tensor:
    """Return the sum over heads, and over queries by their weight, of one layer's difference."""
    if student.queries_BHSd.shape[1] != teacher.queries_BHSd.shape[1]:
        raise ValueError(
            f"the student has {student.queries_BHSd.shape[1]} attention heads and the teacher "
            f"{teacher.queries_BHSd.shape[1]}: scores compare head by head"
        )
    total: Tensor = _Comparison.apply(*student, *teacher, key_BS, query_BS, form)
    return total


class _Comparison(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        scaling: float,
        taught_queries: Tensor,
        taught_keys: Tensor,
        taught_scaling: float,
        key_BS: Tensor,
        query_BS: Tensor,
        form: Form,
    ) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            scores = _scores(queries, keys, scaling)
            taught = _scores(taught_queries, taught_keys, taught_scaling)
            weights = query_BS[:, None, :, None].to(scores.dtype)
            masked = key_BS[:, None, None, :] == 0
            if form == "mse":
                gap = (scores - taught).masked_fill_(masked, 0)
                total = (gap.square() * weights).sum()
                gradient = gap.mul_(2 * weights)
            else:
                # Finite, not -inf: a masked key must give exp(...) * 0 and not 0 * inf.
                log_student = F.log_softmax(scores.masked_fill_(masked, -1e4), dim=-1)
                log_teacher = F.log_softmax(taught.masked_fill_(masked, -1e4), dim=-1)
                taught = log_teacher.exp()
                against = log_student if form == "ce" else log_student - log_teacher
                total = -(taught * against * weights).sum()
                gradient = log_student.exp_().sub_(taught).mul_(weights)
            narrow = gradient.to(queries.dtype)
            ctx.save_for_backward(
                narrow @ keys * scaling, narrow.transpose(-1, -2) @ queries * scaling
            )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        grad_queries, grad_keys = ctx.saved_tensors
        scale = grad_total.to(grad_queries.dtype)
        return (grad_queries * scale, grad_keys * scale, *([None] * 7))


def _scores(queries: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Return raw scores, in at least float32: small differences are what a loss is about."""
    scores = queries.detach() @ keys.detach().transpose(-1, -2)
    return scores.to(torch.promote_types(scores.dtype, torch.float32)) * scaling
