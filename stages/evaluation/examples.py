"""A task's examples as token ids, in batches at random.

With lengths mixed, half of a GLUE batch is padding. It is not computed (students/unpadding.py), so
batches need not be of one length to be fast, and stay what they are in the papers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from stages.corpus.tokenizer_file import read_tokenizer, special_ids
from stages.errors import DataError
from stages.files import read_json
from stages.training.batches import Batch, Order


@dataclass(frozen=True, slots=True)
class Examples:
    """Encoded examples of one split, and their labels (int64, or float32 for a regression)."""

    ids: list[list[int]]
    types: list[list[int]]
    labels: NDArray[np.int64] | NDArray[np.float32]
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Return some examples padded to the longest of them."""
        width = max(len(self.ids[i]) for i in indices)
        shape = (len(indices), width)
        input_ids = np.full(shape, self.pad, dtype=np.int64)
        types, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, i in enumerate(indices):
            length = len(self.ids[i])
            input_ids[row, :length], types[row, :length] = self.ids[i], self.types[i]
            mask[row, :length] = 1
        return {
            "input_ids": torch.from_numpy(input_ids),
            "token_type_ids": torch.from_numpy(types),
            "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(self.labels[np.asarray(indices)]),
        }


class ShuffledBatches:
    """Training batches by step: every epoch a permutation of (seed, epoch).

    With a teacher's answers to all examples, N x C, those of the batch are in it as `taught`.
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int,
        taught_NC: NDArray[np.float32] | None = None,
    ) -> None:
        self.examples, self.taught_NC = examples, taught_NC
        self.order = Order(len(examples), batch_size, seed)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step; it may run from one epoch into the next."""
        indices = self.order.indices(step)
        batch = self.examples.batch(indices)
        if self.taught_NC is not None:
            batch["taught"] = torch.from_numpy(self.taught_NC[indices])
        return batch


def read_rows(folder: Path, split: str, limit: int | None) -> pa.Table:
    """Read one split of a task; of more rows than `limit`, a fixed random part in their order.

    Raises:
        DataError: the split is not there.
    """
    path = folder / f"{split}.parquet"
    if not path.is_file():
        raise DataError(f"{path} does not exist; run dvc repro tasks@{folder.name}")
    table = pq.read_table(path)
    if limit is not None and table.num_rows > limit:
        chosen = np.random.default_rng(0).permutation(table.num_rows)[:limit]
        table = table.take(np.sort(chosen))
    return table


def read_examples(
    folder: Path, split: str, tokenizer_file: Path, max_length: int, max_examples: int | None
) -> Examples:
    """Read one split of a task and encode it, cut to `max_length` tokens.

    Where `max_examples` is fewer than there are, a fixed random part of them is taken.
    """
    table = read_rows(folder, split, max_examples)
    tokenizer = read_tokenizer(tokenizer_file)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    firsts, seconds = table["text_a"].to_pylist(), table["text_b"].to_pylist()
    # A pair whose second text is null is a single sentence.
    texts = [a if b is None else (a, b) for a, b in zip(firsts, seconds, strict=True)]
    encodings = tokenizer.encode_batch(texts)
    dtype = np.float32 if read_json(folder / "task.json")["kind"] == "regression" else np.int64
    return Examples(
        ids=[encoding.ids for encoding in encodings],
        types=[encoding.type_ids for encoding in encodings],
        labels=table["label"].to_numpy().astype(dtype),
        pad=special_ids(tokenizer, tokenizer_file).pad,
    )
