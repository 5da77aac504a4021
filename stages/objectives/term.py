"""A loss term as a sum and the number of things summed over."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Term:
    """A loss before its reduction: means of means are wrong, sums over counts are not."""

    sum: Tensor
    count: float | Tensor

    @property
    def mean(self) -> Tensor:
        """The reduced loss; 0 when nothing was counted, so that an empty batch adds nothing."""
        return self.sum / self.count if self.count else self.sum * 0.0


def masked_positions(labels: Tensor) -> Tensor:
    """Return which positions carry a label (bool, of the same shape); others hold -100."""
    return labels != -100
