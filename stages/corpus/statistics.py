"""What the shards look like in numbers: measured with numpy, a shard in memory at a time."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stages.corpus.reading import SPLITS, SpecialIds, open_split
from stages.files import read_json

MIN_TOKENS_FOR_A_SHARE = 10_000
"""In a shard of fewer tokens a share is chance; the training split's own row covers it."""


@dataclass(frozen=True, slots=True)
class ShardStatistics:
    """What is measured on each shard of both splits."""

    file: str
    num_sequences: int
    num_tokens: int
    """Without padding."""
    smallest_id: int
    largest_id: int
    num_malformed: int
    """Rows that are not `[CLS] ... [SEP]` at full length; the last row may end in padding."""
    unknown_fraction: float | None
    """Share of [UNK] among the tokens; None in a shard too small to tell."""


@dataclass(frozen=True, slots=True)
class TrainStatistics:
    """What is measured on the training split as a whole."""

    num_tokens: int
    num_distinct_tokens: int
    unknown_fraction: float
    padding_fraction: float
    top_token_fraction: float
    """Share of the most frequent token among those that are not special."""
    duplicate_fraction: float
    """Share of rows that an earlier row equals."""
    num_shared_sequences: int
    """Held-out rows that the training split holds too."""


def num_malformed(rows: np.ndarray, special: SpecialIds) -> int:
    """Return how many rows break the form `[CLS] ... [SEP]`, padding only at the last one's end."""
    is_pad = rows == special.pad
    lengths = rows.shape[1] - is_pad.sum(axis=1)
    ends = np.take_along_axis(rows, np.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    good = (rows[:, 0] == special.cls) & (ends == special.sep)
    # Padding inside a row would make the length wrong and the row's end another token.
    good &= is_pad.argmax(axis=1) == np.where(lengths == rows.shape[1], 0, lengths)
    good[:-1] &= lengths[:-1] == rows.shape[1]
    return int(np.count_nonzero(~good))


def shard_statistics(file: str, rows: np.ndarray, special: SpecialIds) -> ShardStatistics:
    """Measure one shard, whose rows are [num_sequences, sequence_length]."""
    num_tokens = int(np.count_nonzero(rows != special.pad))
    num_unknown = int(np.count_nonzero(rows == special.unk))
    return ShardStatistics(
        file=file,
        num_sequences=len(rows),
        num_tokens=num_tokens,
        smallest_id=int(rows.min()),
        largest_id=int(rows.max()),
        num_malformed=num_malformed(rows, special),
        unknown_fraction=(
            num_unknown / num_tokens if num_tokens >= MIN_TOKENS_FOR_A_SHARE else None
        ),
    )


def train_statistics(
    counts: np.ndarray, num_cells: int, special: SpecialIds, train: np.ndarray, heldout: np.ndarray
) -> TrainStatistics:
    """Measure the training split from its token counts and both splits' row hashes."""
    counts = counts.copy()
    num_tokens = int(counts.sum() - counts[special.pad])
    num_unknown = int(counts[special.unk])
    counts[list(asdict(special).values())] = 0
    distinct_rows = np.unique(train)
    return TrainStatistics(
        num_tokens=num_tokens,
        num_distinct_tokens=int(np.count_nonzero(counts)),
        unknown_fraction=num_unknown / max(num_tokens, 1),
        padding_fraction=1 - num_tokens / num_cells,
        top_token_fraction=float(counts.max() / max(counts.sum(), 1)),
        duplicate_fraction=1 - len(distinct_rows) / len(train),
        num_shared_sequences=int(np.count_nonzero(np.isin(heldout, distinct_rows))),
    )


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """Return a 64-bit hash of each row: a sum with fixed random weights, modulo 2^64."""
    weights = np.random.default_rng(0).integers(1, 2**63, rows.shape[1], dtype=np.uint64)
    return (rows.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is measured on a shards folder."""

    vocabulary_size: int
    shards: list[ShardStatistics]
    train: TrainStatistics


def measure(shards: Path) -> Statistics:
    """Read both splits once, a shard in memory at a time.

    Raises:
        DataError: a shard is missing or is not what the manifest says.
    """
    manifest = read_json(shards / "manifest.json")
    measured: list[ShardStatistics] = []
    hashes: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for split in SPLITS:
        sequences = open_split(shards, split)
        counts[split] = np.zeros(sequences.vocabulary_size, dtype=np.int64)
        hashes[split] = np.empty(sequences.num_sequences, dtype=np.uint64)
        start = 0
        for shard in tqdm(manifest["splits"][split]["shards"], desc=split, unit=" shards"):
            end = start + shard["num_sequences"]
            rows = sequences.rows(np.arange(start, end))
            measured.append(shard_statistics(shard["file"], rows, sequences.special))
            in_range = rows[rows < sequences.vocabulary_size]
            counts[split] += np.bincount(in_range, minlength=sequences.vocabulary_size)
            hashes[split][start:end] = row_hashes(rows)
            start = end
    train = train_statistics(
        counts["train"],
        len(hashes["train"]) * sequences.sequence_length,
        sequences.special,
        hashes["train"],
        hashes["heldout"],
    )
    return Statistics(sequences.vocabulary_size, measured, train)
