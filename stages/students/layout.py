"""Where the real tokens of a batch stand when its sequences are put end to end in one row."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

_FOUND = ("places_N", "positions_N", "sequences_N", "bounds")
"""The parts of a layout that a batch carries, by their names."""


@dataclass(frozen=True)
class Layout:
    """How the real tokens of a B x S batch stand in one row: sequences in order of length."""

    shape: tuple[int, int]
    places_N: Tensor
    """Where each token is in the flattened batch."""
    positions_N: Tensor
    """Where it is in its sequence, from 0."""
    sequences_N: Tensor
    """Which sequence of the row it is of."""
    bounds: Tensor
    """Where each sequence begins, and N (int32)."""

    @property
    def is_whole(self) -> bool:
        """Whether every row of the batch is one sequence without padding."""
        return len(self.places_N) == math.prod(self.shape)

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """How many sequences of which length follow each other; a GPU makes the host wait."""
        sizes, counts = self.bounds.diff().unique_consecutive(return_counts=True)
        return list(zip(counts.tolist(), sizes.tolist(), strict=True))


def lay_out(attention_mask_BS: Tensor) -> Layout:
    """Return the layout of a batch whose rows are sequences; the mask is 1 on real tokens."""
    batch, length = attention_mask_BS.shape
    places_N = attention_mask_BS.flatten().nonzero()[:, 0]
    _, lengths = torch.unique_consecutive(places_N // length, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    order = lengths.argsort(stable=True)
    starts, lengths = starts[order], lengths[order]
    bounds = F.pad(lengths.cumsum(0), (1, 0))
    sequences_N = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    positions_N = torch.arange(len(places_N), device=places_N.device) - bounds[sequences_N]
    return Layout(
        shape=(batch, length),
        places_N=places_N[starts[sequences_N] + positions_N],
        positions_N=positions_N,
        sequences_N=sequences_N,
        bounds=bounds.to(torch.int32),
    )


def with_layout(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the layout of a batch that is still on the host: on a GPU, finding it makes it wait."""
    layout = lay_out(batch["attention_mask"])
    return batch | {name: getattr(layout, name) for name in _FOUND}


def layout_of(batch: dict[str, Tensor]) -> Layout | None:
    """Return the layout that `with_layout` added; None where it did not."""
    if _FOUND[0] not in batch:
        return None
    batch_size, length = batch["attention_mask"].shape
    return Layout((batch_size, length), *(batch[name] for name in _FOUND))
