"""What lies between two products of the vocabulary losses, as one kernel for GPUs.

A row's logits are read twice and its gradient is written once, in their place: the first pass finds
both normalisers and both losses, the second forms the gradient. PyTorch's own operations would go
over memory some fifteen times. One program takes one row; everything is float32 inside. Columns
are padded to a number that vector loads and tensor cores divide.

Only for GPUs with Triton, which comes with PyTorch there: import this module where both are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from stages.objectives.vocabulary_logits import NO_LOGIT, Logits
from stages.objectives.vocabulary_sums import Terms

COLUMNS = 2048
"""Columns of a row that a program holds at one time."""
WARPS = 8


class FusedSums:
    """Losses and the gradient of the logits between two matrix products, in one kernel."""

    def __init__(
        self,
        student: Logits,
        teacher: Logits | None,
        labels_M: Tensor,
        importance_N: Tensor | None,
        terms: Terms,
    ) -> None:
        self.student, self.teacher, self.terms = student, teacher, terms
        self.importance_N = importance_N
        self.labels_N = labels_M.new_full((len(student.cooled_ND),), -1)
        self.labels_N[: len(labels_M)] = labels_M
        self.grad_bias = torch.zeros_like(student.cooled_bias_V)
        self.ce = self.grad_bias.new_zeros(())
        self.mlm = torch.zeros_like(self.ce)

    def add(self, rows: slice, learns: bool) -> Tensor:
        """Add some rows' losses; return the gradient of their logits, in the logits' place."""
        logits = self.student.of(rows)
        importance = None if self.importance_N is None else self.importance_N[rows].float()
        kl, nll = row_losses(
            logits,
            self.student.cooled_bias_V,
            self.teacher.of(rows) if self.teacher else None,
            self.teacher.cooled_bias_V if self.teacher else None,
            self.labels_N[rows],
            importance,
            temperature=self.terms.temperature,
            ce_coefficient=self.terms.ce,
            mlm_coefficient=self.terms.mlm,
            learns=learns,
        )
        if importance is not None:
            kl = kl * importance
        self.ce += kl.sum() * self.terms.temperature**2
        self.mlm += nll.sum()
        if learns:
            self.grad_bias += logits.sum(dim=0, dtype=self.student.wide)
        return logits


def row_losses(
    student_NV: Tensor,
    student_bias_V: Tensor,
    teacher_NV: Tensor | None,
    teacher_bias_V: Tensor | None,
    labels_N: Tensor,
    importance_N: Tensor | None,
    *,
    temperature: float,
    ce_coefficient: float,
    mlm_coefficient: float,
    learns: bool,
) -> tuple[Tensor, Tensor]:
    """Return each row's KL(teacher || student) and cross-entropy (float32, N), unweighted.

    Where it learns, the student's logits become the gradient of the weighted losses with regard to
    the logits before they were divided by the temperature.

    Args:
        student_NV: Logits over temperature, less the bias; float32 or bfloat16, rows contiguous.
        student_bias_V: Bias over temperature, float32; `NO_LOGIT` in columns that only pad.
        teacher_NV: The teacher's; None where there are no soft targets. KL is 0 then.
        teacher_bias_V: Its bias over temperature; None where there is no teacher.
        labels_N: Token ids; -1 where a row has none. Cross-entropy is 0 there.
        importance_N: What each row's soft targets count; None: 1.
        temperature: Of the soft targets.
        ce_coefficient: What T squared times KL is multiplied by in the gradient.
        mlm_coefficient: What the cross-entropy is multiplied by in the gradient.
        learns: Whether the gradient is formed.
    """
    num_rows, num_columns = student_NV.shape
    kl_N, nll_N = student_NV.new_zeros(2, num_rows, dtype=torch.float32)
    soft = teacher_NV is not None
    _row[(num_rows,)](
        student_NV,
        student_bias_V,
        teacher_NV if soft else student_NV,
        teacher_bias_V if soft else student_bias_V,
        labels_N,
        importance_N if importance_N is not None else kl_N,
        kl_N,
        nll_N,
        student_NV.stride(0),
        teacher_NV.stride(0) if teacher_NV is not None else 0,
        temperature,
        ce_coefficient * temperature,
        mlm_coefficient,
        soft=soft,
        weighted=importance_N is not None,
        learns=learns,
        lowest=NO_LOGIT,
        num_columns=num_columns,
        columns=COLUMNS,
        num_warps=WARPS,
    )
    return kl_N, nll_N


@triton.jit
def _row(  # type: ignore[no-untyped-def]
    student,
    student_bias,
    teacher,
    teacher_bias,
    labels,
    importance,
    kl_out,
    nll_out,
    student_stride,
    teacher_stride,
    temperature,
    soft_scale,
    hard_scale,
    soft: tl.constexpr,
    weighted: tl.constexpr,
    learns: tl.constexpr,
    lowest: tl.constexpr,
    num_columns: tl.constexpr,
    columns: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    student += row * student_stride
    teacher += row * teacher_stride
    label = tl.load(labels + row)

    # Every lane keeps its own maxima, sums of exponentials and, weighted by the teacher's, of logit
    # differences; lanes meet once, at the end.
    max_s = tl.full([columns], lowest, tl.float32)
    max_t = tl.full([columns], lowest, tl.float32)
    max_h = tl.full([columns], lowest, tl.float32)
    sum_s = tl.zeros([columns], tl.float32)
    sum_t = tl.zeros([columns], tl.float32)
    sum_h = tl.zeros([columns], tl.float32)
    gap = tl.zeros([columns], tl.float32)
    for start in range(0, num_columns, columns):
        at = start + tl.arange(0, columns)
        here = at < num_columns
        s = tl.load(student + at, here, other=0.0).to(tl.float32)
        s += tl.load(student_bias + at, here, other=lowest)
        if soft:
            t = tl.load(teacher + at, here, other=0.0).to(tl.float32)
            t += tl.load(teacher_bias + at, here, other=lowest)
            new_s = tl.maximum(max_s, s)
            sum_s = sum_s * tl.exp(max_s - new_s) + tl.exp(s - new_s)
            max_s = new_s
            new_t = tl.maximum(max_t, t)
            shrunk, odds = tl.exp(max_t - new_t), tl.exp(t - new_t)
            sum_t = sum_t * shrunk + odds
            gap = gap * shrunk + odds * (t - s)
            max_t = new_t
        if label >= 0:
            hard = s * temperature
            new_h = tl.maximum(max_h, hard)
            sum_h = sum_h * tl.exp(max_h - new_h) + tl.exp(hard - new_h)
            max_h = new_h
    top_s, top_t, top_h = tl.max(max_s), tl.max(max_t), tl.max(max_h)
    log_s = top_s + tl.log(tl.sum(sum_s * tl.exp(max_s - top_s)))
    log_h = top_h + tl.log(tl.sum(sum_h * tl.exp(max_h - top_h)))
    reach = tl.exp(max_t - top_t)
    total_t = tl.sum(sum_t * reach)
    log_t = top_t + tl.log(total_t)

    scale = soft_scale
    if soft:
        # KL = sum p_t (t - s) - (log Z_t - log Z_s), because the p_t sum to one.
        kl = tl.sum(gap * reach) / total_t + log_s - log_t
        tl.store(kl_out + row, kl)
        if weighted:
            scale = soft_scale * tl.load(importance + row)
    if label >= 0:
        own = tl.load(student + label).to(tl.float32) + tl.load(student_bias + label)
        tl.store(nll_out + row, log_h - own * temperature)

    if learns:
        # The label's logit is read above, before this overwrites it.
        tl.debug_barrier()
        for start in range(0, num_columns, columns):
            at = start + tl.arange(0, columns)
            here = at < num_columns
            s = tl.load(student + at, here, other=0.0).to(tl.float32)
            s += tl.load(student_bias + at, here, other=0.0)
            gradient = tl.zeros_like(s)
            if soft:
                t = tl.load(teacher + at, here, other=0.0).to(tl.float32)
                t += tl.load(teacher_bias + at, here, other=0.0)
                # d(T^2 KL)/d(logits) = T (p_s - p_t)
                gradient += scale * (tl.exp(s - log_s) - tl.exp(t - log_t))
            if label >= 0:
                probability = tl.exp(s * temperature - log_h)
                gradient += hard_scale * (probability - tl.where(at == label, 1.0, 0.0))
            tl.store(student + at, gradient.to(student.dtype.element_ty), here)
