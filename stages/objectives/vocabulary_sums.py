"""What lies between two products of the vocabulary losses, in PyTorch's own operations."""

from typing import NamedTuple

import torch
from torch import Tensor

from stages.objectives.vocabulary_logits import Buffers, Logits, Mixture, slices

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
        buffers: Buffers,
    ) -> None:
        self.student, self.teacher, self.terms = student, teacher, terms
        self.labels_M, self.importance_N = labels_M, importance_N
        like, wide = student.buffer, student.wide
        num_rows, num_columns = like.shape
        # A GPU has no cache worth staying in, and every call on it costs a launch.
        self.block_rows = min(BLOCK_ROWS if like.device.type == "cpu" else num_rows, num_rows)
        self.probabilities, self.targets, self.hard = (
            buffers.get(name, self.block_rows, num_columns, like, wide)
            for name in ("probabilities", "targets", "hard")
        )
        self.grad_bias = torch.zeros(num_columns, dtype=wide, device=like.device)
        self.ce = torch.zeros((), dtype=wide, device=like.device)
        self.mlm = torch.zeros_like(self.ce)

    def add(self, rows: slice, learns: bool) -> Tensor:
        """Add some rows' losses; return the gradient of their logits, in the logits' place."""
        student = self.student.of(rows)
        teacher = self.teacher.of(rows) if self.teacher else None
        for block in slices(len(student), self.block_rows):
            cooled = self.student.biased(student[block])
            start = rows.start + block.start
            hard = self._labelled(cooled, self.labels_M[start : start + len(cooled)])
            if self.teacher is None or teacher is None:
                cooled.zero_()
            else:
                importance = self.importance_N
                if importance is not None:
                    importance = importance[start : start + len(cooled)]
                self._soft(cooled, self.teacher.biased(teacher[block]), importance)
            if learns:
                cooled[: len(hard)].add_(hard, alpha=self.terms.mlm)
                self.grad_bias += cooled.sum(dim=0)
        return student

    def _labelled(self, cooled: Tensor, labels: Tensor) -> Tensor:
        """Add the loss of the first rows, those with labels; return d(loss)/d(logits)."""
        if not len(labels):
            return self.hard[:0]
        logits = self.targets[: len(labels)]
        torch.mul(cooled[: len(labels)], self.terms.temperature, out=logits)
        probabilities, log_normaliser = _softmax(logits, self.hard)
        at_labels = labels[:, None]
        self.mlm += (log_normaliser - logits.gather(1, at_labels)[:, 0]).sum()
        return probabilities.scatter_add_(1, at_labels, probabilities.new_full(at_labels.shape, -1))

    def _soft(self, cooled: Tensor, taught: Tensor, importance: Tensor | None) -> None:
        """Add the divergence from the teacher; turn the student's logits into its gradient."""
        temperature = self.terms.temperature
        mine, log_normaliser = _softmax(cooled, self.probabilities)
        soft, taught_log_normaliser = _softmax(taught, self.targets)
        # KL = sum p_t (t - s) - (log Z_t - log Z_s), because the p_t sum to one.
        kl = taught.sub_(cooled).mul_(soft).sum(dim=-1)
        kl += log_normaliser - taught_log_normaliser
        # d(T^2 KL)/d(logits) = T (p_s - p_t)
        torch.sub(mine, soft, out=cooled)
        if importance is None:
            cooled.mul_(self.terms.ce * temperature)
        else:
            kl *= importance
            cooled.mul_(importance[:, None] * (self.terms.ce * temperature))
        self.ce += kl.sum() * temperature**2


def _softmax(cooled: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of some logits, in a buffer, and their log normaliser."""
    probabilities = torch.softmax(cooled, -1, out=buffer[: len(cooled)])
    # The largest logit minus the log of its own probability: no second pass over exponentials.
    return probabilities, cooled.amax(dim=-1) - probabilities.amax(dim=-1).log_()
