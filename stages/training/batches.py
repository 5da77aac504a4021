"""What the loop is fed: the batch of any step, made from (seed, step) alone.

A batch is the global one, over all processes, as a dict of tensors that share their first
dimension. Every process makes the same one and takes its part, so that a change of the number of
processes changes nothing but who computes what.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.corpus.reading import Sequences
from stages.objectives.term import masked_positions
from stages.training.masking import importance_of, mask_batch, masking_weights
from stages.training.pairs import sentence_pairs

if TYPE_CHECKING:
    from stages.params import Masking

Batch = dict[str, Tensor]


class Batches(Protocol):
    """A source of global batches; the same step always gives the same batch."""

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""


class Order:
    """The order in which items are visited: every epoch a permutation of (seed, epoch)."""

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self._epoch = -1
        self._permutation: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return the items of a step; a batch may run from one epoch into the next."""
        start = step * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        epochs = positions // self.num_items
        picked = [
            self._order(int(epoch))[positions[epochs == epoch] % self.num_items]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(picked)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._epoch, self._permutation = epoch, rng.permutation(self.num_items)
        return self._permutation


class MaskedBatches:
    """Batches of token rows with some tokens masked: input_ids, attention_mask, labels (B x S).

    With a `sampled_fraction` they also have an `importance` (`masking.importance_of`).
    """

    def __init__(
        self,
        sequences: Sequences,
        batch_size: int,
        seed: int,
        masking: "Masking",
        sampled_fraction: float | None = None,
    ) -> None:
        self.sequences = sequences
        self.order = Order(sequences.num_sequences, batch_size, seed)
        self.seed, self.fraction = seed, masking.fraction
        self.sampled_fraction = sampled_fraction
        self.weights_V = masking_weights(
            sequences.token_counts, sequences.special, masking.smoothing
        )
        self.continuations_V = sequences.continuations if masking.whole_words else None

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step; masks are drawn from (seed, step)."""
        return self._batch(self.order.indices(step), np.random.default_rng([self.seed, step, 1]))

    def fixed(self, num_sequences: int) -> Iterator[Batch]:
        """Yield some sequences, spread over all, with masks that never change (evaluation)."""
        chosen = self.sequences.spread(num_sequences)
        for start in range(0, len(chosen), self.order.batch_size):
            indices = chosen[start : start + self.order.batch_size]
            yield self._batch(indices, np.random.default_rng([self.seed, start, 2]))

    def _batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        return self._masked(self.sequences.rows(indices), rng)

    def _masked(self, rows: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        special = self.sequences.special
        inputs, labels = mask_batch(
            rows, self.weights_V, special, self.fraction, rng, self.continuations_V
        )
        real = rows != special.pad
        batch = {
            "input_ids": torch.from_numpy(inputs),
            "attention_mask": torch.from_numpy(real.astype(np.int64)),
            "labels": torch.from_numpy(labels),
        }
        if self.sampled_fraction is not None:
            importance = importance_of(labels, real, self.sampled_fraction, rng)
            batch["importance"] = torch.from_numpy(importance)
        return batch


class PairBatches(MaskedBatches):
    """The same text as pairs of segments, with token_type_ids (B x S)."""

    def _batch(self, indices: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        pairs = sentence_pairs(self.sequences, indices, rng)
        return self._masked(pairs.ids_BS, rng) | {
            "token_type_ids": torch.from_numpy(pairs.segments_BS),
        }


def num_tokens(batch: Batch) -> int:
    """Return the number of tokens in a batch; padding is none."""
    return int(batch["attention_mask"].sum())


def rows_of(batches: Batches, step: int) -> list[int]:
    """Return the rows that a step is made of; none of batches that have no order."""
    order = getattr(batches, "order", None)
    return order.indices(step).tolist() if isinstance(order, Order) else []


def with_rows(batch: Batch, wanted_BS: Tensor, importance_BS: Tensor | None = None) -> Batch:
    """Add which positions need logits, those with labels first.

    `rows` (N) counts positions along B x S, `row_labels` are the labels of its first M, and
    `row_importance` (N) is given where an importance is. Found here, before a batch is sent to its
    device, because a device that is asked how many there are makes the host wait.
    """
    labels, wanted = batch["labels"].flatten(), wanted_BS.flatten()
    labelled = masked_positions(labels)
    first = torch.nonzero(labelled & wanted).flatten()
    rows = torch.cat([first, torch.nonzero(wanted & ~labelled).flatten()])
    added = {"rows": rows, "row_labels": labels[first]}
    if importance_BS is not None:
        added["row_importance"] = importance_BS.flatten()[rows]
    return batch | added


def share(batch: Batch, rank: int, world_size: int) -> Batch:
    """Return one process's part of a global batch: neighbouring rows, as even as possible."""
    mine = part(len(next(iter(batch.values()))), rank, world_size)
    return {name: tensor[mine] for name, tensor in batch.items()}


def part(size: int, rank: int, world_size: int) -> slice:
    """Return which of so many rows one process takes."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield a process's part in pieces of at most `size` rows."""
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: tensor[start : start + size] for name, tensor in batch.items()}
