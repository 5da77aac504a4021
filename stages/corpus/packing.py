"""From documents to rows `[CLS] ... [SEP]` of one length: what is dropped, where rows begin."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages import params
from stages.corpus.reading import SpecialIds
from stages.corpus.tokenising import Tokens

ROWS_PER_BATCH = 1024
"""Few enough that memory does not tell how large a shard is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one length L."""

    ids: NDArray[Any]
    """[num_rows, L], as stored."""
    starts: NDArray[np.bool_]
    """[num_rows, L], True at the first token of every sentence."""


def reason_to_drop(ids: NDArray[Any], special: SpecialIds, settings: params.Shards) -> str | None:
    """Return why a document's tokens are not packed, None if they are."""
    if len(ids) < settings.min_tokens:
        return "too_few_tokens"
    if np.count_nonzero(ids == special.unk) >= settings.max_unknown_fraction * len(ids):
        return "too_many_unknown"
    return None


def pack(
    documents: Iterable[Tokens], special: SpecialIds, settings: params.Shards
) -> Iterator[Tokens]:
    """Yield rows of `settings.sequence_length`; a document that does not fit goes on in the next.

    With `cross_documents`, documents stand end to end with `[SEP]` between them, and only the last
    row is padded; no row begins with a separator. Without, every document begins a row, and its
    last row begins early enough to be full; only a document shorter than a row is padded.

    With `whole_sentences`, a row begins where a sentence does: the sentence that the end of a row
    cuts stands whole in the next.
    """
    row = _OpenRow(special, settings.sequence_length)
    for document in documents:
        if row.num_filled and not settings.cross_documents:
            yield row.close()
        row.separate()
        begun = position = 0
        while position < len(document.ids):
            if row.num_free == 0:
                yield row.close()
            if row.num_filled == 0:
                position = _row_start(document, begun, position, row.num_free, settings)
            # In a row that another document began, not even the first sentence is whole.
            begun = position if row.num_filled == 0 else -1
            position += row.add(document, position)
    if row.num_filled:
        yield row.close()


def _row_start(
    document: Tokens, begun: int, position: int, room: int, settings: params.Shards
) -> int:
    """Return where a document's next row begins, which is `position` or before.

    Args:
        document: Whose tokens before `position` stand in rows already.
        begun: Where its last row began, -1 if within another document's row.
        position: Where its last row ended.
        room: How many tokens a row holds.
        settings: Whether sentences stay whole, and whether rows cross documents.
    """
    if position == 0:
        return 0
    start = position
    if settings.whole_sentences:
        whole = np.flatnonzero(document.starts[begun + 1 : position + 1])
        # A sentence longer than a row can only be cut.
        start = begun + 1 + int(whole[-1]) if whole.size else position
    earliest = len(document.ids) - room
    if not settings.cross_documents and start > earliest:
        whole = np.flatnonzero(document.starts[earliest : start + 1])
        start = earliest + (int(whole[0]) if settings.whole_sentences and whole.size else 0)
    return start


class _OpenRow:
    """The row that is being filled."""

    def __init__(self, special: SpecialIds, length: int) -> None:
        self._special, self._length = special, length
        self._open()

    def _open(self) -> None:
        self._ids: NDArray[Any] = np.full(self._length, self._special.pad, dtype=np.int64)
        self._starts = np.zeros(self._length, dtype=np.bool_)
        self._ids[0] = self._special.cls
        self.num_filled = 0
        """Tokens after `[CLS]`, separators included."""

    @property
    def num_free(self) -> int:
        return self._length - 2 - self.num_filled

    def separate(self) -> None:
        """Put a separator between two documents, if both have a place in this row."""
        if self.num_filled and self.num_free:
            self.num_filled += 1
            self._ids[self.num_filled] = self._special.sep

    def add(self, document: Tokens, position: int) -> int:
        """Add as many of a document's tokens from a position on as fit; return how many."""
        stop = min(position + self.num_free, len(document.ids))
        place = slice(1 + self.num_filled, 1 + self.num_filled + stop - position)
        self._ids[place] = document.ids[position:stop]
        self._starts[place] = document.starts[position:stop]
        self.num_filled += stop - position
        return stop - position

    def close(self) -> Tokens:
        """Return the row, ended and padded, and open another."""
        self._ids[1 + self.num_filled] = self._special.sep
        closed = Tokens(self._ids, self._starts)
        self._open()
        return closed


def stacked(rows: Iterable[Tokens], dtype: np.dtype[Any]) -> Iterator[Rows]:
    """Yield rows together, ROWS_PER_BATCH at a time; the last may be fewer."""
    rows = iter(rows)
    while block := list(islice(rows, ROWS_PER_BATCH)):
        ids = np.stack([row.ids for row in block], dtype=dtype, casting="unsafe")
        yield Rows(ids, np.stack([row.starts for row in block]))


def write_shard(path: Path, blocks: Iterable[Rows], length: int, dtype: np.dtype[Any]) -> None:
    """Write rows as an Arrow stream, a record batch for each block."""
    schema = pa.schema(
        {
            "input_ids": pa.list_(pa.from_numpy_dtype(dtype), length),
            "sentence_starts": pa.list_(pa.bool_(), length),
        }
    )
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for block in blocks:
            ids = np.ascontiguousarray(block.ids, dtype)
            starts = np.packbits(block.starts, bitorder="little")
            columns = [
                _lists(values, field.type, len(ids))
                for values, field in zip((ids, starts), schema, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _lists(values: NDArray[Any], kind: Any, num_rows: int) -> Any:
    """Return values, as Arrow lays them out, as lists of one length."""
    # Not pa.array, which imports pandas: a second in every process.
    buffers = [None, pa.py_buffer(values)]
    flat = pa.Array.from_buffers(kind.value_type, num_rows * kind.list_size, buffers)
    return pa.FixedSizeListArray.from_arrays(flat, kind.list_size)
