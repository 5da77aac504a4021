"""The loop that trains everything: teacher adaptation, distillation, fine-tuning.

What differs between them is the objective and the batches. What is here for all of them: a global
batch shared among processes and accumulated in micro-batches, sums over counts instead of means of
means, checkpoints from which a killed run goes on to the identical result, an orderly stop, and a
halt at the first value that is not finite.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stages.command import log
from stages.errors import Interrupted, SettingsError
from stages.training.batches import Batch, Batches, micro_batches, num_tokens, share
from stages.training.checkpoints import CurveRow, Progress, held, resume, save_checkpoint
from stages.training.finite import NotFiniteError, naming_the_batch
from stages.training.memory import freed_memory_kept
from stages.training.optimisation import learning_rate, make_optimizer
from stages.training.processes import Processes
from stages.training.products import float32_on_onednn
from stages.training.progress import progress_line
from stages.training.spending import Outcome, Spending
from stages.training.stopping import StopWish, stop_on_signals

if TYPE_CHECKING:
    from stages.params import Launch, Schedule

NUM_CURVE_ROWS = 200
"""About how many points a loss curve has, however long the run."""


class Objective(Protocol):
    """A model with its loss: an `nn.Module` whose parameters are what is trained."""

    terms: tuple[str, ...]
    """Names of the loss terms, in the order of `counts` and of the sums."""

    def counts(self, batch: Batch) -> list[float]:
        """Return for each term how many things of a global batch it sums over."""

    def prepare(self, batch: Batch) -> Batch:
        """Return a micro-batch with what is better found while it is still on the host."""

    def __call__(self, batch: Batch, counts: list[float]) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a micro-batch, and each term's sum.

        The sums carry no gradient. A term enters the loss as weight x sum / count, with the count
        of the global batch: the losses of all micro-batches and processes then add up to the loss
        of the batch.
        """


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
        wrapped = DistributedDataParallel(module) if processes.world_size > 1 else module
        run = _Run(objective, wrapped, optimizer, schedule, num_steps, launch, processes, seed)
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
            _note_and_checkpoint(workspace, run, progress, clock, stop, spending)
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
    run: "_Run",
    progress: Progress,
    clock: "_Clock",
    stop: StopWish,
    spending: Spending,
) -> None:
    first, last = run.processes.is_first, progress.step == run.num_steps
    # Nothing goes on from the checkpoints before the end of a finished run.
    keep = 1 if last else run.launch.num_checkpoints
    due = last or clock.since_mark() >= run.launch.checkpoint_every_seconds
    # Clocks differ between processes, and a signal may reach only one of them.
    stopping, saving, noting = run.processes.any(
        stop.wanted, due and first, spending.is_due() and first
    )
    if workspace is None and stopping:
        raise _interrupted(None, progress, run.num_steps)
    if noting or saving or stopping:
        spending.note()
    if workspace is None or not (stopping or saving):
        return
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


class _Run:
    """One optimiser step after another, and what they measured since the last flush."""

    def __init__(
        self,
        objective: Objective,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: "Schedule",
        num_steps: int,
        launch: "Launch",
        processes: Processes,
        seed: int,
    ) -> None:
        self.objective, self.wrapped, self.optimizer = objective, wrapped, optimizer
        self.schedule, self.num_steps, self.launch = schedule, num_steps, launch
        self.processes, self.seed = processes, seed
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Losses add up on the device: reading them every step would make the host wait for it.
        self.sums = torch.zeros(len(objective.terms) + 1, device=processes.device)
        # The first step at which each term, or the gradient, was not finite; 0 for none so far.
        self.bad_step = torch.zeros(len(objective.terms) + 1, device=processes.device)
        self.num_summed = 0

    def step(self, step: int, batch: Batch) -> None:
        counts = self.objective.counts(batch)
        mine = share(batch, self.processes.rank, self.processes.world_size)
        pieces = list(micro_batches(mine, self.launch.micro_batch_sequences))
        torch.manual_seed(_dropout_seed(self.seed, step, self.processes.rank))
        cast(nn.Module, self.objective).train()
        terms = torch.zeros_like(self.sums)
        divisors = self._sent(torch.tensor([max(count, 1) for count in counts]))
        for index, piece in enumerate(pieces):
            with self._gradients_stay_local(index < len(pieces) - 1), self._precision():
                prepared = self.objective.prepare(piece)
                sent = {name: self._sent(tensor) for name, tensor in prepared.items()}
                loss, sums = self.wrapped(sent, counts)
                # DDP takes the mean over processes, and shares of one loss must be summed.
                (loss * self.processes.world_size).backward()
            terms[0] += loss.detach()
            terms[1:] += sums / divisors
        self.processes.sum(terms)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.max_grad_norm)
        bad = ~torch.cat([terms[1:].isfinite(), norm.isfinite()[None]])
        self.bad_step = torch.where(bad & (self.bad_step == 0), float(step + 1), self.bad_step)
        if self.processes.device.type == "cpu":
            self.check_finite()
        rate = learning_rate(self.schedule, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.sums += terms
        self.num_summed += 1

    def _sent(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the host on the device, which the host does not wait for."""
        device = self.processes.device
        if device.type == "cpu":
            return tensor
        # From memory that may be paged out, a copy would have to be waited for.
        return tensor.pin_memory().to(device, non_blocking=True)

    def take_up(self, progress: Progress) -> None:
        """Go on with the sums of a checkpoint, so that its curve goes on as if nothing happened."""
        if progress.unflushed:
            self.sums.copy_(torch.tensor(progress.unflushed))
            self.num_summed = progress.num_unflushed

    def put_down(self, progress: Progress) -> None:
        """Leave the sums since the last flush for a checkpoint."""
        progress.unflushed, progress.num_unflushed = self.sums.tolist(), self.num_summed

    def flush(self, step: int) -> CurveRow:
        """Return the means since the last flush, as a row of the curve."""
        self.check_finite()
        values = (self.sums / self.num_summed).tolist()
        self.sums.zero_()
        self.num_summed = 0
        rate = learning_rate(self.schedule, step - 1, self.num_steps)
        names = ("loss", *self.objective.terms)
        return {"step": step, **dict(zip(names, values, strict=True)), "learning_rate": rate}

    def check_finite(self) -> None:
        """Stop for the first value that was not finite, before a checkpoint could hold it."""
        steps = self.bad_step.tolist()
        if not any(steps):
            return
        names = (*self.objective.terms, "the gradient")
        step, name = min(
            ((step, name) for step, name in zip(steps, names, strict=True) if step),
            key=lambda pair: pair[0],
        )
        raise NotFiniteError(int(step), name, self.schedule.learning_rate)

    def _gradients_stay_local(self, local: bool) -> contextlib.AbstractContextManager[None]:
        if local and isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        if self.schedule.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=torch.bfloat16)


def _dropout_seed(seed: int, step: int, rank: int) -> int:
    mixed = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    return math.floor(mixed[0]) & (2**63 - 1)


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
