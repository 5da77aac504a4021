"""What lies between two products of the vocabulary losses, in PyTorch's own operations."""

from typing import NamedTuple

import torch
from torch import Tensor

from stages.objectives.vocabulary_logits import Logits, Mixture, slices

BLOCK_ROWS = 16
"""Rows between two products on a CPU: a few arrays of them, 2 MB each, stay near its cores."""


class Terms(NamedTuple):
    """The temperature of the soft targets, and each term's weight over its count."""

    temperature: float
    ce: float
    mlm: float


class Sums:
    """Losses and the gradient of the logits between two matrix products, block by block."""

    def __init__(
        self,
        student: Logits,
        teacher: Logits | Mixture | None,
        labels_M: Tensor,
        importance_N: Tensor | None,
        terms: Terms,
    ) -> None:
        self.student, self.teacher, self.terms = student, teacher, terms
        self.labels_M, self.importance_N = labels_M, importance_N
        like, wide = student.buffer, student.wide
        # A GPU has no cache worth staying in, and every call on it costs a launch.
        self.block_rows = BLOCK_ROWS if like.device.type == "cpu" else len(like)
        self.grad_bias = torch.zeros(like.shape[1], dtype=wide, device=like.device)
        self.ce = torch.zeros((), dtype=wide, device=like.device)
        self.mlm = torch.zeros_like(self.ce)
        # d(T^2 KL)/d(logits) = T (p_s - p_t)
        self.soft_scale = torch.full_like(self.ce, terms.ce * terms.temperature)

    def add(self, rows: slice, learns: bool) -> Tensor:
        """Add some rows' losses; return the gradient of their logits, in the logits' place."""
        student = self.student.of(rows)
        teacher = self.teacher.of(rows) if self.teacher else None
        for block in slices(len(student), self.block_rows):
            cooled = student[block]
            these = slice(rows.start + block.start, rows.start + block.stop)
            hard = self._hard(cooled, self.labels_M[these])
            if teacher is None:
                cooled.zero_()
            else:
                self._soften(cooled, teacher[block], these)
            if learns:
                cooled[: len(hard)].add_(hard, alpha=self.terms.mlm)
                self.grad_bias += cooled.sum(dim=0)
        return student

    def _hard(self, cooled: Tensor, labels: Tensor) -> Tensor:
        """Add the loss of the first rows, those with labels; return d(loss)/d(logits)."""
        if not len(labels):
            return cooled[:0]
        logits = (cooled[: len(labels)] + self.student.cooled_bias_V) * self.terms.temperature
        at_labels = labels[:, None]
        own = logits.gather(1, at_labels)
        odds, largest, total = _odds(logits)
        self.mlm += (largest + total.log() - own).sum()
        return odds.div_(total).scatter_add_(1, at_labels, -torch.ones_like(own))

    def _soften(self, cooled: Tensor, taught: Tensor, these: slice) -> None:
        """Add the divergence from the teacher; turn the student's logits into its gradient."""
        assert self.teacher is not None
        importance = 1.0 if self.importance_N is None else self.importance_N[these, None]
        biases = self.student.cooled_bias_V, self.teacher.cooled_bias_V
        kl = _divergence(cooled, taught, *biases, self.soft_scale * importance)
        self.ce += (kl * importance).sum() * self.terms.temperature**2


def _divergence(
    cooled_RV: Tensor, taught_RV: Tensor, bias_V: Tensor, taught_bias_V: Tensor, scale: Tensor
) -> Tensor:
    """Return each row's KL(teacher || student), R x 1, and put its gradient in the student's place.

    All that is given is divided by the temperature, logits without their bias. The gradient is
    multiplied by the scale: one number, or one for each row, R x 1.
    """
    mine, taught = cooled_RV + bias_V, taught_RV + taught_bias_V
    apart = taught - mine
    odds, largest, total = _odds(mine)
    taught_odds, taught_largest, taught_total = _odds(taught)
    # KL = sum p_t (t - s) - (log Z_t - log Z_s), because the p_t sum to one.
    kl = apart.mul_(taught_odds).sum(dim=-1, keepdim=True) / taught_total
    kl += (largest + total.log()) - (taught_largest + taught_total.log())
    torch.sub(odds.mul_(scale / total), taught_odds.mul_(scale / taught_total), out=cooled_RV)
    return kl


def _odds(logits_RV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turn logits into exp(logit - largest), in place; return them, the largest and the totals."""
    largest_R1 = logits_RV.amax(dim=-1, keepdim=True)
    odds_RV = logits_RV.sub_(largest_R1).exp_()
    return odds_RV, largest_R1, odds_RV.sum(dim=-1, keepdim=True)
