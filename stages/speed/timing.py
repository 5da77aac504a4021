"""Models that take turns in one process, and what their times say.

A speed-up is the median of the rounds' ratios: whatever else the machine does meanwhile slows the
models of a round alike.
"""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stages.training.energy import Meter

Ids = NDArray[np.int64]
Runner = Callable[[Ids, Ids], object]
"""One forward pass of input_ids and attention_mask, batch x sequence."""
Name = TypeVar("Name", bound=Hashable)
Seconds = NDArray[np.float64]
"""Rounds x passes."""

SEQUENCES_PER_TURN = 4
"""A turn at a small batch repeats it up to this many sequences: one pass is too short to time."""
PAUSE_SECONDS = 0.003
"""Between turns: threads of the runtime before spin on for a while before they sleep."""
ROWS_PER_TURN = 10
"""Texts that a model reads in one turn of a pass over a data set."""


def time_batches(
    runners: Mapping[Name, Runner], batch: int, length: int, num_rounds: int, meter: Meter | None
) -> tuple[dict[Name, Seconds], dict[Name, float | None]]:
    """Return the seconds of every pass on a full batch, and the joules a sequence took.

    Args:
        runners: By name; every name gets a turn in every round.
        batch: Sequences in a batch.
        length: Tokens in a sequence, all of them real.
        num_rounds: Rounds that count; one more comes before them.
        meter: Of the whole processor, everything that runs on it included; None: no energy.
    """
    passes = max(1, SEQUENCES_PER_TURN // batch)
    # Few ids, which every vocabulary has: an embedding's row costs the same whichever it is.
    ids = np.random.default_rng(0).integers(5, 100, size=(batch, length))
    mask = np.ones_like(ids)
    seconds = {name: np.empty((num_rounds, passes)) for name in runners}
    joules: dict[Name, list[float | None]] = {name: [] for name in runners}
    for turn in tqdm(range(-1, num_rounds), desc=f"speed, {batch} x {length}", unit="round"):
        for name in _rotated(list(runners), turn):
            time.sleep(PAUSE_SECONDS)
            before = meter.joules() if meter else 0.0
            taken = [_timed(runners[name], ids, mask) for _ in range(passes)]
            if turn >= 0:
                seconds[name][turn] = taken
                joules[name].append(meter.joules() - before if meter else None)
    return seconds, {name: _per_sequence(found, passes * batch) for name, found in joules.items()}


def time_pass(runners: Mapping[Name, Runner], rows: Sequence[Ids]) -> dict[Name, Seconds]:
    """Return the seconds of every text, read once each, one at a time, by every model.

    Args:
        runners: By name.
        rows: The token ids of every text, 1 x its length.
    """
    seconds = {name: np.empty(len(rows)) for name in runners}
    starts = range(0, len(rows), ROWS_PER_TURN)
    for runner in runners.values():
        _timed(runner, rows[0], np.ones_like(rows[0]))
    for turn, start in enumerate(tqdm(starts, desc="one pass", unit="block")):
        for name in _rotated(list(runners), turn):
            time.sleep(PAUSE_SECONDS)
            for i in range(start, min(start + ROWS_PER_TURN, len(rows))):
                seconds[name][i] = _timed(runners[name], rows[i], np.ones_like(rows[i]))
    return seconds


def by_turn(seconds: Seconds) -> Seconds:
    """Return the seconds that each turn of a pass took."""
    return np.add.reduceat(seconds, np.arange(0, len(seconds), ROWS_PER_TURN))


def speedup(reference: Seconds, other: Seconds) -> float:
    """Return how many times faster the other is: the median over rounds of their ratio."""
    ratios = np.median(reference, axis=1) / np.median(other, axis=1)
    return round(float(np.median(ratios)), 3)


def percentiles(seconds: Seconds) -> dict[str, float]:
    """Return the median and the 95th percentile of all passes, in milliseconds."""
    return {
        f"p{percent}": round(1000 * float(np.percentile(seconds, percent)), 3)
        for percent in (50, 95)
    }


def _timed(runner: Runner, ids: Ids, mask: Ids) -> float:
    start = time.perf_counter()
    runner(ids, mask)
    return time.perf_counter() - start


def _rotated(names: list[Name], turn: int) -> list[Name]:
    """Return the names, another one first each round: the first meets the coldest caches."""
    first = turn % len(names)
    return names[first:] + names[:first]


def _per_sequence(joules: Sequence[float | None], sequences: int) -> float | None:
    read = [value for value in joules if value is not None]
    return round(float(np.median(read)) / sequences, 4) if read else None
