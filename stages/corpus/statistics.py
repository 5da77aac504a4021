"""What the shards look like in numbers: measured with numpy, a batch in memory at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from stages.corpus.reading import SPLITS, SpecialIds, open_split, stored_batches
from stages.corpus.records import Drops
from stages.corpus.versions import Outline, outline
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
    largest_id: int
    num_malformed: int
    """Rows that are not `[CLS] ... [SEP]` at full length; the last row may end in padding."""
    unknown_fraction: float | None
    """Share of [UNK] among the tokens; None in a shard too small to tell, as for the next two."""
    mojibake_fraction: float | None
    """Share of the text's characters that were decoded wrongly."""
    foreign_fraction: float | None
    """Share of the tokens in documents that are not English."""


@dataclass(frozen=True, slots=True)
class TrainStatistics:
    """What is measured on the training split as a whole."""

    num_tokens: int
    num_distinct_tokens: int
    unknown_fraction: float
    mojibake_fraction: float
    foreign_fraction: float
    padding_fraction: float
    top_token_fraction: float
    """Share of the most frequent token among those that are not special."""
    duplicate_fraction: float
    """Share of rows that an earlier row equals."""
    shared_fraction: float
    """Share of the held-out rows that the training split holds too."""


def num_malformed(
    rows: np.ndarray, special: SpecialIds, padded: bool = False, at_end: bool = True
) -> int:
    """Return how many rows break the form `[CLS] ... [SEP]`, padding only at its end.

    Unless rows may be `padded`, only the last one `at_end` of a shard may end in padding.
    """
    is_pad = rows == special.pad
    lengths = rows.shape[1] - is_pad.sum(axis=1)
    ends = np.take_along_axis(rows, np.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    good = (rows[:, 0] == special.cls) & (ends == special.sep)
    # Padding inside a row would make the length wrong and the row's end another token.
    good &= is_pad.argmax(axis=1) == np.where(lengths == rows.shape[1], 0, lengths)
    if not padded:
        inner = slice(len(rows) - at_end)
        good[inner] &= lengths[inner] == rows.shape[1]
    return int(np.count_nonzero(~good))


def shard_statistics(
    shard: dict[str, Any], batches: Iterable[np.ndarray], special: SpecialIds, padded: bool = False
) -> ShardStatistics:
    """Measure one shard, which the manifest describes, from its rows [num_rows, L] in batches."""
    num_rows = num_tokens = num_unknown = malformed = largest = 0
    for rows in batches:
        num_rows += len(rows)
        num_tokens += int(np.count_nonzero(rows != special.pad))
        num_unknown += int(np.count_nonzero(rows == special.unk))
        malformed += num_malformed(rows, special, padded, num_rows == shard["num_sequences"])
        largest = max(largest, int(rows.max()))
    tells = num_tokens >= MIN_TOKENS_FOR_A_SHARE
    return ShardStatistics(
        file=shard["file"],
        num_sequences=num_rows,
        num_tokens=num_tokens,
        largest_id=largest,
        num_malformed=malformed,
        unknown_fraction=num_unknown / num_tokens if tells else None,
        mojibake_fraction=mojibake_fraction([shard]) if tells else None,
        foreign_fraction=foreign_fraction([shard]) if tells else None,
    )


def mojibake_fraction(shards: list[dict[str, Any]]) -> float:
    """Return the share of characters that were decoded wrongly, as counted with the shards."""
    num_characters = sum(shard["num_characters"] for shard in shards)
    return sum(shard["num_mojibake"] for shard in shards) / max(num_characters, 1)


def foreign_fraction(shards: list[dict[str, Any]]) -> float:
    """Return the share of tokens that are not English, as counted with the shards."""
    return sum(s["num_foreign_tokens"] for s in shards) / max(
        sum(s["num_tokens"] for s in shards), 1
    )


def train_statistics(
    counts: np.ndarray,
    shards: list[dict[str, Any]],
    num_cells: int,
    special: SpecialIds,
    train: np.ndarray,
    heldout: np.ndarray,
) -> TrainStatistics:
    """Measure the training split from its token counts, its shards and both splits' row hashes."""
    num_tokens = int(counts.sum() - counts[special.pad])
    ordinary = without_special(counts, special)
    distinct_rows = np.unique(train)
    return TrainStatistics(
        num_tokens=num_tokens,
        num_distinct_tokens=int(np.count_nonzero(ordinary)),
        unknown_fraction=int(counts[special.unk]) / max(num_tokens, 1),
        mojibake_fraction=mojibake_fraction(shards),
        foreign_fraction=foreign_fraction(shards),
        padding_fraction=1 - num_tokens / num_cells,
        top_token_fraction=float(ordinary.max() / max(ordinary.sum(), 1)),
        duplicate_fraction=1 - len(distinct_rows) / len(train),
        shared_fraction=int(np.count_nonzero(np.isin(heldout, distinct_rows)))
        / max(len(heldout), 1),
    )


def without_special(counts: np.ndarray, special: SpecialIds) -> np.ndarray:
    """Return token counts with those of special tokens at zero."""
    ordinary = counts.copy()
    ordinary[list(asdict(special).values())] = 0
    return ordinary


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
    outline: Outline
    drops: Drops
    """Of both splits: documents that were too short or too strange once they were tokens."""


def measure(shards: Path) -> Statistics:
    """Read both splits once, a batch in memory at a time.

    Raises:
        DataError: a shard is missing or is not what the manifest says.
    """
    manifest = read_json(shards / "manifest.json")
    padded = not manifest["params"]["cross_documents"]
    length = manifest["sequence_length"]
    measured: list[ShardStatistics] = []
    hashes: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for split in SPLITS:
        sequences = open_split(shards, split)
        counts[split] = np.zeros(sequences.vocabulary_size, dtype=np.int64)
        found: list[np.ndarray] = []
        for shard in tqdm(manifest["splits"][split]["shards"], desc=split, unit=" shards"):
            batches = _counted(stored_batches(shards / shard["file"], length), counts[split], found)
            measured.append(shard_statistics(shard, batches, sequences.special, padded))
        hashes[split] = np.concatenate(found)
    train = train_statistics(
        counts["train"],
        manifest["splits"]["train"]["shards"],
        len(hashes["train"]) * length,
        sequences.special,
        hashes["train"],
        hashes["heldout"],
    )
    ordinary = without_special(counts["train"], sequences.special)
    drops = Drops()
    for part in manifest["splits"].values():
        drops |= Drops(Counter(part["dropped"]), part["examples"])
    outlined = outline(shards, ordinary)
    return Statistics(sequences.vocabulary_size, measured, train, outlined, drops)


def _counted(
    batches: Iterable[np.ndarray], counts: np.ndarray, hashes: list[np.ndarray]
) -> Iterator[np.ndarray]:
    """Yield the batches, their ids counted and their rows hashed."""
    for rows in batches:
        counts += np.bincount(rows[rows < len(counts)], minlength=len(counts))
        hashes.append(row_hashes(rows))
        yield rows
