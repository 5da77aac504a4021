"""Read shards as rows of token ids, memory-mapped: no row is copied until it is asked for.

    sequences = open_split(Path("data/shards"), "train")
    ids = sequences.rows(np.array([0, 7]))  # int64 [2, sequence_length]

Needs numpy and pyarrow only, so that a training machine can read what another one made.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.errors import DataError
from stages.files import read_json, sha256_of

FORMAT = 1
SPLITS = ("train", "heldout")


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids of BERT's special tokens in the tokenizer that made the shards."""

    pad: int
    unk: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True, slots=True)
class Sequences:
    """The rows of one split, in the order of its shards."""

    num_sequences: int
    sequence_length: int
    vocabulary_size: int
    special: SpecialIds
    token_counts: np.ndarray
    """How often each id stands in the training split (int64, padding not counted)."""
    digest: str
    """The sha256 of the manifest, which holds those of all shards: it names these very rows."""
    _pieces: tuple[np.ndarray, ...]
    _starts: np.ndarray

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at these positions as int64, one line each, in the given order."""
        rows = np.empty((len(indices), self.sequence_length), dtype=np.int64)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for owner in np.unique(owners):
            chosen = owners == owner
            rows[chosen] = self._pieces[owner][indices[chosen] - self._starts[owner]]
        return rows


def open_split(shards: Path, split: str, verify: bool = True) -> Sequences:
    """Open a split of a shards folder; `verify` checks every shard against its sha256.

    Raises:
        DataError: a file is missing, damaged, or of a format that this version does not read.
    """
    manifest = read_json(shards / "manifest.json")
    if manifest["format"] != FORMAT:
        raise DataError(
            f"{shards / 'manifest.json'} has format {manifest['format']}, and format {FORMAT} is "
            "read here; make the shards again: dvc repro shards"
        )
    length = manifest["sequence_length"]
    pieces = []
    for shard in manifest["splits"][split]["shards"]:
        path = shards / shard["file"]
        if verify:
            _check(path, shard["sha256"])
        pieces.extend(_map(path, length))
    sizes = [len(piece) for piece in pieces]
    expected = manifest["splits"][split]["num_sequences"]
    if sum(sizes) != expected:
        raise DataError(
            f"{shards / split} holds {sum(sizes)} rows where the manifest says {expected}; "
            "make the shards again: dvc repro shards"
        )
    return Sequences(
        num_sequences=expected,
        sequence_length=length,
        vocabulary_size=manifest["vocabulary_size"],
        special=SpecialIds(**manifest["special_ids"]),
        token_counts=np.load(shards / "token_counts.npy"),
        digest=sha256_of(shards / "manifest.json"),
        _pieces=tuple(pieces),
        _starts=np.cumsum([0, *sizes[:-1]]),
    )


def _check(path: Path, expected: str) -> None:
    try:
        found = sha256_of(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; dvc checkout brings it back") from error
    if found != expected:
        raise DataError(
            f"{path} is damaged: its sha256 is {found}, and the manifest says {expected}. "
            "Delete it and run dvc checkout, or make the shards again: dvc repro --force shards"
        )


def _map(path: Path, length: int) -> list[Any]:
    """Return the record batches of a shard as arrays that look into the mapped file."""
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as an Arrow stream: {error}") from error
    chunks = table.column("input_ids").chunks
    return [c.flatten().to_numpy(zero_copy_only=True).reshape(-1, length) for c in chunks]
