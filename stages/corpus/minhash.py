"""Near duplicates by MinHash (Broder 1997) and banding (Leskovec et al., ch. 3), in numpy.

Two documents are as alike as the sets of their runs of five words: the size of what they share by
the size of both together (Jaccard). Of 128 hash functions, the share under which both sets have
the same minimum estimates that, with a standard error of 0.035 at 0.8.
"""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

NUM_HASHES = 128
SHINGLE_WORDS = 5
PIECE_BYTES = 1 << 18
"""Long texts are hashed piece by piece: the minimum over all pieces is that of the whole."""
BLOCK_SHINGLES = 1024
MARGIN = 0.1
"""Pairs whose likeness is this far below the threshold are looked at too: so few are missed."""
NUM_NEIGHBOURS = 4
AT_ONCE = 1 << 12
"""Documents or pairs whose signatures are in memory together."""

Signatures = NDArray[np.uint32]

# ASCII that is no letter or digit becomes a space, and so do the quotes and dashes of print: one
# edition of a book has them where another has those of a typewriter.
_PLAIN = bytes(byte if byte >= 128 or chr(byte).isalnum() else 32 for byte in range(256))
_PRINTED = re.compile(rb"\xe2\x80.|\xc2[\xa0-\xbf]", re.S)
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 1 << 64)
_rng = np.random.default_rng(20_190_930)
_FACTORS = _rng.integers(1, 1 << 63, NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_TERMS = _rng.integers(0, 1 << 63, NUM_HASHES, dtype=np.uint64)


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    return np.cumprod(
        np.concatenate([np.ones(1, np.uint64), np.full(count - 1, base, np.uint64)]),
        dtype=np.uint64,
    )


_POWERS = _powers(_BASE, PIECE_BYTES + 1)
_INVERSES = _powers(_INVERSE, PIECE_BYTES + 1)


def signature(text: str) -> Signatures:
    """Return the minima of a text's runs of five words, uint32 [NUM_HASHES].

    Case, punctuation and white space do not count.
    """
    data = text.lower().encode().translate(_PLAIN)
    data = b" ".join(_PRINTED.sub(b" ", data).split())
    minima = np.full(NUM_HASHES, 0xFFFFFFFF, np.uint32)
    for piece in _pieces(data):
        shingles = _shingles(np.frombuffer(piece, np.uint8))
        for first in range(0, len(shingles), BLOCK_SHINGLES):
            block = shingles[first : first + BLOCK_SHINGLES]
            hashes = (block[None, :] * _FACTORS[:, None] + _TERMS[:, None]) >> np.uint64(32)
            np.minimum(minima, hashes.min(axis=1).astype(np.uint32), out=minima)
    return minima


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield a text in pieces that end at a space."""
    while len(data) > PIECE_BYTES:
        cut = data.rfind(b" ", 0, PIECE_BYTES)
        cut = cut if cut > 0 else PIECE_BYTES
        yield data[:cut]
        data = data[cut:].lstrip()
    yield data


def _shingles(letters: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash of each run of five words: of the letters from the first to the last of them.

    The hash of letters i to j is a difference of two prefix sums of letter * base**place, divided
    by base**i, all modulo 2**64.
    """
    if not letters.size:
        return np.zeros(0, np.uint64)
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum(letters.astype(np.uint64) * _POWERS[: len(letters)])]
    )
    spaces = np.flatnonzero(letters == 32)
    starts = np.concatenate([[0], spaces + 1])
    ends = np.concatenate([spaces, [len(letters)]])
    count = max(1, len(starts) - SHINGLE_WORDS + 1)
    starts, ends = starts[:count], ends[-count:]
    hashes = (sums[ends] - sums[starts]) * _INVERSES[starts]
    # A polynomial's low bits depend on few letters: mix them all (the finaliser of splitmix64).
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    return hashes


def bands_for(threshold: float) -> tuple[int, int]:
    """Return (bands, rows in each) that bring pairs together from `threshold - MARGIN` on."""
    rows = max(
        rows
        for rows in range(1, NUM_HASHES + 1)
        if (rows / NUM_HASHES) ** (1 / rows) <= max(threshold - MARGIN, 0.1) or rows == 1
    )
    return NUM_HASHES // rows, rows


def near_duplicates(signatures: Signatures, threshold: float) -> NDArray[np.int64]:
    """Return for each document the earlier one that it is as good as, -1 if there is none.

    Args:
        signatures: uint32 [documents, NUM_HASHES], in the order of the corpus; may be on disk.
        threshold: share of equal minima from which two documents are taken for the same.

    Documents that are dropped stand for nothing: what is like them, and not like any that stays,
    stays too. The result depends on the signatures alone. It takes some 40 bytes a document in
    memory besides the pairs that are found.
    """
    num_bands, num_rows = bands_for(threshold)
    found = []
    for band in range(num_bands):
        columns = signatures[:, band * num_rows : (band + 1) * num_rows]
        keys = np.empty(len(signatures), np.uint64)
        for begin in range(0, len(keys), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            keys[part] = columns[part].astype(np.uint64) @ _FACTORS[:num_rows]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        # Nearly all documents are alone, and what follows takes a hundred bytes for each.
        as_next = np.zeros(len(keys), np.bool_)
        as_next[:-1] = keys[1:] == keys[:-1]
        shared = as_next | np.roll(as_next, 1)
        found.append(_alike(signatures, keys[shared], order[shared], threshold))
    pairs = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)
    original = np.full(len(signatures), -1, np.int64)
    for later, earlier in pairs:
        if original[later] < 0 and original[earlier] < 0:
            original[later] = earlier
    return original


def _alike(
    signatures: Signatures, keys: NDArray[np.uint64], order: NDArray[np.int64], threshold: float
) -> NDArray[np.int64]:
    """Return the pairs (later, earlier) with one key whose signatures agree, int64 [pairs, 2].

    Of many with one key, each is held against the first and its nearest neighbours alone.
    """
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    first = np.repeat(starts, np.diff(np.concatenate([starts, [len(keys)]])))
    places = np.arange(len(keys))
    partners = [first, *(np.maximum(places - step, first) for step in range(1, NUM_NEIGHBOURS + 1))]
    candidates = [
        np.stack([order[places[places != partner]], order[partner[places != partner]]], axis=1)
        for partner in partners
    ]
    pairs = np.unique(np.concatenate(candidates), axis=0)
    kept = []
    for begin in range(0, len(pairs), AT_ONCE):
        part = pairs[begin : begin + AT_ONCE]
        agree = (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1)
        kept.append(part[agree >= threshold])
    return np.concatenate(kept) if kept else np.zeros((0, 2), np.int64)
