"""The vocabulary-sized losses of a distillation step without vocabulary-sized tensors.

Soft targets and the masked-language-model loss share the student's logits, and logits are what a
step spends its memory on: 2,048 tokens of a 30,522-word vocabulary are 250 MB for one copy, and
the straightforward form keeps five. Here both losses and their gradients are formed together, a
few rows at a time, in buffers that are used again; what leaves the forward pass is the gradient
of the features and of the head. Values equal the textbook form (tests/test_vocabulary.py).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from stages.objectives.term import masked_positions

CHUNK_ROWS = 256
"""Rows whose logits exist at one time: large enough for the matrix products to run at full speed,
small enough for four buffers of float32 to stay near the cache."""


class Head(NamedTuple):
    """What turns features into logits: features_ND @ weight_VD.T + bias_V."""

    features_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor


@dataclass(frozen=True, slots=True)
class VocabularyLosses:
    """The weighted total, which carries the gradient, and the sums of its terms, which do not."""

    total: Tensor
    ce_sum: Tensor
    mlm_sum: Tensor


def vocabulary_losses(
    student: Head,
    teacher: Head | None,
    labels_N: Tensor,
    *,
    temperature: float,
    ce_coefficient: float,
    mlm_coefficient: float,
) -> VocabularyLosses:
    """Return `ce_coefficient * ce_sum + mlm_coefficient * mlm_sum` over N rows.

    `ce_sum` is T squared times KL(teacher || student) at the temperature, over every row; `mlm_sum`
    is the cross-entropy of the rows whose label is not -100. The coefficients are the weights
    divided by the counts of the whole batch, over all micro-batches and processes: they must be
    known now, because the gradient is formed in the forward pass.

    Args:
        student: Its three tensors may require gradients; all three receive them.
        teacher: None leaves the soft targets out. Its vocabulary must be the student's.
        labels_N: Token ids, -100 where there is nothing to restore.
        temperature: T > 0, of the soft targets only.
        ce_coefficient: Weight over count of the soft targets.
        mlm_coefficient: Weight over count of the masked-language-model loss.

    Raises:
        ValueError: teacher and student do not share a vocabulary.
    """
    if teacher is not None and teacher.weight_VD.shape[0] != student.weight_VD.shape[0]:
        raise ValueError(
            f"the teacher's vocabulary has {teacher.weight_VD.shape[0]} tokens, "
            f"the student's {student.weight_VD.shape[0]}: soft targets need the same one"
        )
    total, ce_sum, mlm_sum = _Losses.apply(
        *student, teacher, labels_N, temperature, ce_coefficient, mlm_coefficient
    )
    return VocabularyLosses(total, ce_sum, mlm_sum)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        teacher: Head | None,
        labels_N: Tensor,
        temperature: float,
        ce_coefficient: float,
        mlm_coefficient: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Under autocast the features decide the precision; the casts below are then explicit.
        with torch.autocast(features_ND.device.type, enabled=False):
            student = Head(features_ND, weight_VD, bias_V)
            work = _Chunks(student, temperature if teacher else 1.0, any(ctx.needs_input_grad))
            frozen = None if teacher is None else _Chunks(teacher, temperature, learns=False)
            for start in range(0, features_ND.shape[0], CHUNK_ROWS):
                rows = slice(start, start + CHUNK_ROWS)
                work.add(rows, frozen, labels_N[rows], ce_coefficient, mlm_coefficient)
        ctx.save_for_backward(
            work.grad_features,
            work.grad_weight.to(weight_VD.dtype),
            work.grad_bias.to(bias_V.dtype),
        )
        total = ce_coefficient * work.ce_sum + mlm_coefficient * work.mlm_sum
        ctx.mark_non_differentiable(work.ce_sum, work.mlm_sum)
        return total, work.ce_sum, work.mlm_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (*(saved * grad_total for saved in ctx.saved_tensors), *([None] * 5))


class _Chunks:
    """One head's logits, a few rows at a time, and the gradients that are summed over them."""

    def __init__(self, head: Head, temperature: float, learns: bool) -> None:
        dtype, device = head.features_ND.dtype, head.features_ND.device
        # A softmax in half precision would drown the small probabilities soft targets are about.
        self.wide = torch.promote_types(dtype, torch.float32)
        self.temperature, self.learns = temperature, learns
        self.features_ND = head.features_ND
        # Dividing N x D features by the temperature is dividing N x V logits by it, but cheaper.
        self.cooled_ND = head.features_ND / temperature
        self.weight_VD = head.weight_VD.to(dtype)
        self.cooled_bias_V = (head.bias_V / temperature).to(dtype)
        shape = (min(CHUNK_ROWS, head.features_ND.shape[0]), head.weight_VD.shape[0])
        # Used again for every chunk: paging in fresh memory costs more than the sums do.
        self.logits = torch.empty(shape, dtype=self.wide, device=device)
        self.probabilities = torch.empty_like(self.logits)
        self.grad_features = torch.zeros_like(head.features_ND)
        self.grad_weight = torch.zeros_like(head.weight_VD, dtype=self.wide)
        self.grad_bias = torch.zeros_like(head.bias_V, dtype=self.wide)
        self.ce_sum = torch.zeros((), dtype=self.wide, device=device)
        self.mlm_sum = torch.zeros_like(self.ce_sum)

    def cooled_logits(self, rows: slice) -> Tensor:
        """Return the logits of some rows divided by the temperature, in the shared buffer."""
        features = self.cooled_ND[rows]
        out = self.logits[: features.shape[0]]
        if self.wide == features.dtype:
            return torch.addmm(self.cooled_bias_V, features, self.weight_VD.T, out=out)
        return out.copy_(torch.addmm(self.cooled_bias_V, features, self.weight_VD.T))

    def softmax(self, cooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of some logits, in a shared buffer, and their log normaliser."""
        probabilities = torch.softmax(cooled, -1, out=self.probabilities[: cooled.shape[0]])
        # The largest logit minus the log of its own probability: no second pass over exponentials.
        return probabilities, cooled.amax(dim=-1) - probabilities.amax(dim=-1).log_()

    def add(
        self,
        rows: slice,
        teacher: "_Chunks | None",
        labels: Tensor,
        ce_coefficient: float,
        mlm_coefficient: float,
    ) -> None:
        """Add one chunk's losses and gradients."""
        cooled = self.cooled_logits(rows)
        labelled = torch.nonzero(masked_positions(labels)).squeeze(1)
        targets = labels.index_select(0, labelled)[:, None]
        hard = torch.log_softmax(cooled.index_select(0, labelled).mul_(self.temperature), dim=-1)
        self.mlm_sum -= hard.gather(1, targets).sum()

        if teacher is None:
            gradient = self.probabilities[: cooled.shape[0]].zero_()
        else:
            gradient, log_normaliser = self.softmax(cooled)
            taught = teacher.cooled_logits(rows)
            soft, taught_log_normaliser = teacher.softmax(taught)
            # KL = sum p_t (t - s) - (log Z_t - log Z_s), because the p_t sum to one.
            kl = torch.linalg.vecdot(soft, taught.sub_(cooled))
            kl += log_normaliser - taught_log_normaliser
            self.ce_sum += kl.sum() * self.temperature**2
            # d(T^2 KL)/d(logits) = T (p_s - p_t)
            gradient.sub_(soft).mul_(ce_coefficient * self.temperature)

        if not self.learns:
            return
        hard.exp_().scatter_add_(1, targets, torch.full_like(hard[:, :1], -1.0))
        gradient.index_add_(0, labelled, hard, alpha=mlm_coefficient)
        self.grad_bias += gradient.sum(dim=0)
        features = self.features_ND[rows]
        narrow = gradient.to(features.dtype)
        torch.mm(narrow, self.weight_VD, out=self.grad_features[rows])
        if self.wide == features.dtype:
            self.grad_weight.addmm_(gradient.T, features)
        else:
            self.grad_weight += narrow.T @ features
