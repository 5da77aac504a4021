"""What training has cost over all its attempts, with the work that kills have undone.

`attempts.json` in the workspace has a line per attempt: the seconds from its start to its last sign
of life, its processes, and the energy where it is measured. A sign of life is noted every
`SECONDS_BETWEEN_NOTES` and with every checkpoint, so a kill hides no more than that of its cost.
"""

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from stages.errors import DataError
from stages.files import read_json, write_json
from stages.training.checkpoints import CurveRow
from stages.training.energy import energy_meter
from stages.training.processes import Processes

SECONDS_BETWEEN_NOTES = 10.0


@dataclass(slots=True)
class Attempt:
    """One start of a run, up to its last sign of life."""

    num_processes: int
    seconds: float = 0.0
    joules: float | None = None
    """Of all processes; None where one of them has no meter."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished training run measured."""

    num_steps: int
    seconds: float
    """Wall time of the work that counts: of all attempts, up to their last checkpoints."""
    device: str
    num_processes: int
    curve: list[CurveRow]
    device_seconds: float = 0.0
    """Seconds times processes of all attempts, with the work that kills have undone."""
    num_attempts: int = 1
    joules: float | None = None

    def cost(self, num_tokens: int) -> dict[str, float | str]:
        """Return what reports say of a run; device-hours are GPU-hours on GPUs."""
        energy: dict[str, float | str] = {}
        if self.joules is not None:
            energy = {"energy_joules": round(self.joules, 1)}
        return energy | {
            "num_steps": self.num_steps,
            "num_tokens": num_tokens,
            "seconds": round(self.seconds, 2),
            "device": self.device,
            "device_hours": self.device_seconds / 3600,
            "num_attempts": self.num_attempts,
            "tokens_per_second": num_tokens / self.seconds if self.seconds else 0.0,
        }


def later(curve: list[CurveRow], num_steps: int) -> list[CurveRow]:
    """Return a curve as it is after some steps of others."""
    return [row | {"step": row["step"] + num_steps} for row in curve]


def joined(outcomes: list[Outcome]) -> Outcome:
    """Return phases that followed each other as one run: costs added up, curves end to end."""
    curve: list[CurveRow] = []
    num_steps = 0
    for outcome in outcomes:
        curve += later(outcome.curve, num_steps)
        num_steps += outcome.num_steps
    joules = [outcome.joules for outcome in outcomes if outcome.joules is not None]
    return replace(
        outcomes[-1],
        num_steps=num_steps,
        seconds=sum(outcome.seconds for outcome in outcomes),
        curve=curve,
        device_seconds=sum(outcome.device_seconds for outcome in outcomes),
        # Every attempt passes through the first phase, if only to take up its end.
        num_attempts=outcomes[0].num_attempts,
        joules=sum(joules) if len(joules) == len(outcomes) else None,
    )


class Spending:
    """The attempts of a run; the last is the one under way."""

    def __init__(self, workspace: Path | None, processes: Processes) -> None:
        self._file = None if workspace is None else workspace / "attempts.json"
        self._processes = processes
        self._meter = energy_meter(processes.device, processes.is_first_here)
        self._started = self._noted = time.monotonic()
        self.attempts = [*self._earlier(), Attempt(processes.world_size)]

    def is_due(self) -> bool:
        """Return whether it is time for a sign of life."""
        return time.monotonic() - self._noted >= SECONDS_BETWEEN_NOTES

    def note(self) -> None:
        """Give a sign of life; every process must."""
        drawn = math.nan if self._meter is None else self._meter.joules()
        total = self._processes.sum(torch.tensor(drawn, dtype=torch.float64)).item()
        self._noted = time.monotonic()
        attempt = self.attempts[-1]
        attempt.seconds = self._noted - self._started
        attempt.joules = None if math.isnan(total) else total
        if self._file is not None and self._processes.is_first:
            write_json(self._file, [asdict(attempt) for attempt in self.attempts])

    @property
    def device_seconds(self) -> float:
        """Seconds times processes, over all attempts."""
        return sum(attempt.seconds * attempt.num_processes for attempt in self.attempts)

    @property
    def joules(self) -> float | None:
        """Energy over all attempts; None where it is not known of every one."""
        known = [attempt.joules for attempt in self.attempts if attempt.joules is not None]
        return sum(known) if len(known) == len(self.attempts) else None

    def _earlier(self) -> list[Attempt]:
        if self._file is None or not self._file.exists():
            return []
        try:
            return [Attempt(**attempt) for attempt in read_json(self._file)]
        except (DataError, TypeError):
            # It holds nothing that training needs.
            return []
