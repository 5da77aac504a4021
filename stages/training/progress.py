"""The line that tells how training goes: step, losses, tokens a second, share of peak, rest."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from stages.training.checkpoints import CurveRow
from stages.training.hardware import peak_flops
from stages.training.processes import Processes


class ProgressLine:
    """A bar with the newest row of the loss curve and the speed since the row before it."""

    def __init__(
        self, bar: "tqdm[Any]", terms: tuple[str, ...], share_per_token: float | None
    ) -> None:
        self._bar, self._terms, self._share_per_token = bar, terms, share_per_token
        self._num_tokens, self._since = 0, time.perf_counter()

    def step(self, num_tokens: int) -> None:
        """Count one step."""
        self._num_tokens += num_tokens
        self._bar.update()

    def show(self, row: CurveRow) -> None:
        """Show a row of the curve; the device must have done all that was asked of it."""
        now = time.perf_counter()
        speed = self._num_tokens / (now - self._since)
        self._num_tokens, self._since = 0, now
        shown = {name: f"{row[name]:.3f}" for name in ("loss", *self._terms)}
        shown["tokens/s"] = f"{speed:.0f}"
        share = speed * (self._share_per_token or 0.0)
        # More than all of it: a CPU's peak was measured while it was busy with something else.
        if 0.0 < share <= 1.0:
            shown["of peak"] = f"{share:.0%}"
        self._bar.set_postfix(shown, refresh=False)


@contextmanager
def progress_line(
    title: str,
    terms: tuple[str, ...],
    num_steps: int,
    done: int,
    processes: Processes,
    precision: str,
    flops_per_token: float | None,
) -> Iterator[ProgressLine]:
    """Show a line on the first process for the length of a block.

    Args:
        title: What is trained.
        terms: Names of the loss terms, as in the rows of the curve.
        num_steps: Where the line ends.
        done: Where it begins: steps of earlier attempts.
        processes: Their number multiplies the peak.
        precision: Of matrix products.
        flops_per_token: Work of a training step per token; None leaves the share of peak out.
    """
    share = None
    if flops_per_token is not None and processes.is_first:
        peak = peak_flops(processes.device, precision)
        share = flops_per_token / (peak * processes.world_size) if peak else None
    with tqdm(
        total=num_steps,
        initial=done,
        desc=title,
        unit="step",
        disable=not processes.is_first,
        # A log file keeps every line that a terminal would write over.
        mininterval=1.0 if sys.stderr.isatty() else 15.0,
        dynamic_ncols=True,
    ) as bar:
        yield ProgressLine(bar, terms, share)
