"""The loop that trains everything: teacher adaptation, distillation, fine-tuning.

What differs between them is the objective and the batches. What is here for all of them: steps
(`stages.training.steps`), checkpoints from which a killed run goes on to the identical result, an
orderly stop, and a halt at the first value that is not finite.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import nn

from stages.command import log
from stages.errors import Interrupted, SettingsError
from stages.training.batches import Batches, num_tokens
from stages.training.checkpoints import CurveRow, Progress, held, resume, save_checkpoint
from stages.training.finite import naming_the_batch
from stages.training.memory import freed_memory_kept
from stages.training.optimisation import make_optimizer
from stages.training.processes import Processes
from stages.training.products import float32_on_onednn
from stages.training.progress import progress_line
from stages.training.spending import Outcome, Spending
from stages.training.steps import Objective, Steps
from stages.training.stopping import StopWish, stop_on_signals

if TYPE_CHECKING:
    from stages.params import Launch, Schedule

NUM_CURVE_ROWS = 200
"""About how many points a loss curve has, however long the run."""


def train(
    objective: Objective,
    batches: Batches,
    schedule: "Schedule",
    num_steps: int,
    launch: "Launch",
    processes: Processes,
    *,
    seed: int,
    workspace: Path | None,
    title: str,
    flops_per_token: float | None = None,
    listener: Callable[[list[CurveRow]], None] | None = None,
    rate_factors: Mapping[str, float] | None = None,
    keeps_end: bool = True,
) -> Outcome:
    """Train an objective's parameters in place, from the newest checkpoint if there is one.

    Args:
        objective: What is trained, on its device already.
        batches: Global batches by step.
        schedule: Learning rate, batch and optimiser.
        num_steps: Optimiser steps to reach.
        launch: Micro-batch size and checkpoints; changes nothing about the result.
        processes: This process's place among all.
        seed: Of dropout, with the step and the rank.
        workspace: Where checkpoints live; None for runs short enough to start over.
        title: For the progress line.
        flops_per_token: Work of a step per token; the progress line then shows the share of the
            machine's peak.
        listener: Is given the curve so far, on the first process, whenever a row is added and when
            a run goes on.
        rate_factors: What the learning rate is multiplied by, by parameter name; None: 1.
        keeps_end: Whether the end is a checkpoint however short the run was. Without, what follows
            may cost at most `checkpoint_every_seconds` of it again.

    Raises:
        Interrupted: on SIGINT or SIGTERM, after a checkpoint.
        TrainingError: a term or the gradient stopped being finite; says which and at what step.
    """
    module = cast(nn.Module, objective)
    if schedule.batch_sequences < processes.world_size:
        raise SettingsError(
            f"batch_sequences = {schedule.batch_sequences} is fewer than the "
            f"{processes.world_size} processes that share it"
        )
    optimizer = make_optimizer(module, schedule, rate_factors)
    with held(workspace, processes), stop_on_signals() as stop, contextlib.ExitStack() as stack:
        stack.enter_context(float32_on_onednn(processes.device))
        stack.enter_context(freed_memory_kept(processes.device))
        spending, progress = Spending(workspace, processes), Progress()
        if workspace is not None:
            progress = resume(workspace, module, optimizer, processes)
        if progress.step:
            log.info("%s: going on from step %d of %d", title, progress.step, num_steps)
        run = Steps(objective, optimizer, schedule, num_steps, launch, processes, seed)
        run.take_up(progress)
        line = stack.enter_context(
            progress_line(
                title, objective.terms, num_steps, progress.step, processes,
                schedule.precision, flops_per_token,
            )
        )  # fmt: skip
        stack.enter_context(naming_the_batch(batches, workspace, processes))
        hear = listener if listener and processes.is_first else None
        if hear and progress.curve:
            hear(progress.curve)
        spending.note()
        clock = _Clock(progress.seconds)
        every = max(1, num_steps // NUM_CURVE_ROWS)
        for step in range(progress.step, num_steps):
            batch = batches(step)
            run.step(step, batch)
            progress.step, progress.seconds = step + 1, clock.seconds()
            line.step(num_tokens(batch))
            if (step + 1) % every == 0 or step + 1 == num_steps:
                row = run.flush(step + 1)
                progress.curve.append(row)
                line.show(row)
                if hear:
                    hear(progress.curve)
            _note_and_checkpoint(workspace, run, progress, clock, stop, spending, keeps_end)
        spending.note()
        # While the last checkpoint was written, too: whatever follows would not hear of it.
        if processes.any(stop.wanted)[0]:
            raise _interrupted(workspace, progress, num_steps)
    return Outcome(
        num_steps,
        progress.seconds,
        processes.device.type,
        processes.world_size,
        progress.curve,
        spending.device_seconds,
        len(spending.attempts),
        spending.joules,
    )


def _note_and_checkpoint(
    workspace: Path | None,
    run: Steps,
    progress: Progress,
    clock: "_Clock",
    stop: StopWish,
    spending: Spending,
    keeps_end: bool,
) -> None:
    first, last = run.processes.is_first, progress.step == run.num_steps
    # Nothing goes on from the checkpoints before the end of a finished run.
    keep = 1 if last else run.launch.num_checkpoints
    due = (last and keeps_end) or clock.since_mark() >= run.launch.checkpoint_every_seconds
    # Clocks differ between processes, and a signal may reach only one of them.
    stopping, saving, noting = run.processes.any(
        stop.wanted, due and first, spending.is_due() and first
    )
    if noting or saving or stopping:
        spending.note()
    if workspace is not None and (saving or stopping):
        run.check_finite()
        run.put_down(progress)
        if first:
            model = cast(nn.Module, run.objective)
            save_checkpoint(workspace, model, run.optimizer, progress, keep)
        run.processes.wait()
        clock.mark()
    if stopping:
        raise _interrupted(workspace, progress, run.num_steps)


def _interrupted(workspace: Path | None, progress: Progress, num_steps: int) -> Interrupted:
    if workspace is None:
        return Interrupted(f"stopped at step {progress.step}; run it again to redo it")
    return Interrupted(
        f"stopped after step {progress.step} of {num_steps}, checkpoint in {workspace}; "
        "run the same command to go on"
    )


class _Clock:
    """Seconds of this attempt on top of earlier ones, and since the last checkpoint."""

    def __init__(self, earlier: float) -> None:
        self.earlier, self.started = earlier, time.monotonic()
        self.marked = self.started

    def seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started

    def since_mark(self) -> float:
        return time.monotonic() - self.marked

    def mark(self) -> None:
        self.marked = time.monotonic()
