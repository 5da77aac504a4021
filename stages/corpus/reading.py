"""Read shards as rows of token ids, memory-mapped: no row is copied until it is asked for.

    sequences = open_split(Path("data/shards"), "train")
    ids = sequences.rows(np.array([0, 7]))  # int64 [2, sequence_length]
    starts = sequences.sentence_starts(np.array([0, 7]))  # bool [2, sequence_length]

Needs numpy and pyarrow only, so that a training machine can read what another one made.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.errors import DataError
from stages.files import read_json, sha256_of

FORMAT = 2
SPLITS = ("train", "heldout")


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """The ids of the special tokens in the tokenizer that made the shards."""

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
    continuations: np.ndarray
    """For each id whether it continues a word (`##ing`)."""
    digest: str
    """The sha256 of the manifest, which holds those of all shards: it names these very rows."""
    _pieces: tuple[np.ndarray, ...]
    _starts: np.ndarray
    """The position of every piece's first row."""
    _marks: tuple[np.ndarray, ...] = ()
    """For every piece the starts of sentences, eight to a byte."""

    def spread(self, num_rows: int) -> np.ndarray:
        """Return so many positions, of fewer rows all, evenly spread.

        The first ones would be of the first source alone.
        """
        num_rows = min(num_rows, self.num_sequences)
        return np.arange(num_rows) * self.num_sequences // num_rows

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at these positions as int64, one line each, in the given order."""
        return self.stored_rows(indices).astype(np.int64)

    def stored_rows(self, indices: np.ndarray) -> np.ndarray:
        """Return the rows at these positions in the type that they are stored in."""
        return self._gathered(self._pieces, indices)

    def sentence_starts(self, indices: np.ndarray) -> np.ndarray:
        """Return for these rows, as bool, where a sentence begins."""
        packed = self._gathered(self._marks, indices)
        bits = np.unpackbits(packed, axis=1, count=self.sequence_length, bitorder="little")
        return bits.astype(np.bool_)

    def _gathered(self, pieces: tuple[np.ndarray, ...], indices: np.ndarray) -> np.ndarray:
        found = np.empty((len(indices), pieces[0].shape[1]), dtype=pieces[0].dtype)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for owner in np.unique(owners):
            chosen = owners == owner
            found[chosen] = pieces[owner][indices[chosen] - self._starts[owner]]
        return found


def open_split(shards: Path, split: str, verify: bool = True) -> Sequences:
    """Open a split of a shards folder; `verify` checks every file against its sha256.

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
    listed = manifest["splits"][split]["shards"]
    if verify:
        # Shards made before these were listed can still be read.
        _check_all(shards, [*listed, *manifest.get("arrays", [])])
    pieces, marks = [], []
    for shard in listed:
        for ids, starts in _map(shards / shard["file"], length):
            pieces.append(ids)
            marks.append(starts)
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
        continuations=np.load(shards / "continuations.npy"),
        digest=sha256_of(shards / "manifest.json"),
        _pieces=tuple(pieces),
        _starts=np.cumsum([0, *sizes[:-1]]),
        _marks=tuple(marks),
    )


def _check_all(shards: Path, listed: list[dict[str, Any]]) -> None:
    # Threads: hashing lets go of the interpreter, and the shards of a large corpus are many.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda shard: _check(shards / shard["file"], shard["sha256"]), listed):
            pass


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


def stored_batches(path: Path, length: int) -> Iterator[np.ndarray]:
    """Yield a shard's rows as they are stored, a record batch in memory at a time.

    Not mapped: whoever reads all of a corpus once would seem to need as much memory.
    """
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield _ids(batch, length)


def _map(path: Path, length: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and packed sentence starts of every record batch, as views of the mapped file."""
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as an Arrow stream: {error}") from error
    for batch in table.to_batches():
        bits = batch.column("sentence_starts").flatten()
        # A row's length is a multiple of eight, so every row's bits begin with a byte.
        marks = np.frombuffer(bits.buffers()[1], dtype=np.uint8)[: len(bits) // 8]
        yield _ids(batch, length), marks.reshape(-1, length // 8)


def _ids(batch: pa.RecordBatch, length: int) -> np.ndarray:
    # Not to_numpy, which imports pandas: a second for whoever trains.
    flat = batch.column("input_ids").flatten()
    return np.frombuffer(flat.buffers()[1], str(flat.type))[: len(flat)].reshape(-1, length)
