"""Pairs of segments, made from rows when they are read.

`[CLS] A [SEP] B [SEP]`: A is the beginning of a row's text up to where a sentence begins; B is what
follows it in every second pair, and otherwise text from another row (Devlin et al. 2019, A.1).
Nothing is stored for it: the shards know where their sentences begin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.corpus.reading import Sequences, SpecialIds


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch of pairs, padded to the length of the rows."""

    ids_BS: NDArray[np.int64]
    segments_BS: NDArray[np.int64]
    """0 for `[CLS] A [SEP]` and padding, 1 for `B [SEP]`."""
    is_next_B: NDArray[np.bool_]


def sentence_pairs(
    sequences: Sequences, indices: NDArray[np.int64], rng: np.random.Generator
) -> Pairs:
    """Return a pair for each of the rows; `rng` decides the cuts, the labels and the other rows.

    Of a row that holds several documents, the longest is taken. The other row is any: it may be of
    the same document, and is the less often the larger the corpus.
    """
    others = rng.integers(0, sequences.num_sequences - 1, len(indices))
    others += others >= indices
    is_next_B = rng.random(len(indices)) < 0.5
    cuts, begins = rng.random((2, len(indices)))
    both = np.concatenate([indices, others])
    texts = _longest_texts(sequences.rows(both), sequences.sentence_starts(both), sequences.special)
    ids_BS = np.full((len(indices), sequences.sequence_length), sequences.special.pad)
    segments_BS = np.zeros_like(ids_BS)
    for i, is_next in enumerate(is_next_B):
        ids, starts = texts[i]
        cut = _choice(starts[starts < sequences.sequence_length - 3], cuts[i], len(ids) // 2)
        room = sequences.sequence_length - 3 - cut
        if is_next:
            second = ids[cut:]
        else:
            other, starts = texts[len(indices) + i]
            # Where enough text follows, so that a pair's length does not tell its label.
            begin = _choice(starts[starts <= len(other) - room], begins[i], 0)
            second = other[begin:]
        second = second[:room]
        end = cut + 2 + len(second)
        ids_BS[i, 0] = sequences.special.cls
        ids_BS[i, 1 : cut + 1] = ids[:cut]
        ids_BS[i, cut + 2 : end] = second
        ids_BS[i, [cut + 1, end]] = sequences.special.sep
        segments_BS[i, cut + 2 : end + 1] = 1
    return Pairs(ids_BS, segments_BS, is_next_B)


def _longest_texts(
    rows: NDArray[np.int64], starts: NDArray[np.bool_], special: SpecialIds
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return each row's longest run without separators, and where in it later sentences begin."""
    found = []
    for row, marks in zip(rows, starts, strict=True):
        ends = np.flatnonzero(row == special.sep)
        begins = np.concatenate([[0], ends[:-1]]) + 1
        longest = np.argmax(ends - begins)
        begin, end = begins[longest], ends[longest]
        found.append((row[begin:end], np.flatnonzero(marks[begin + 1 : end]) + 1))
    return found


def _choice(positions: NDArray[np.int64], draw: float, default: int) -> int:
    """Return one of some positions by a draw from [0, 1), or the default if there is none."""
    return int(positions[int(draw * len(positions))]) if len(positions) else default
