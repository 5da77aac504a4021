"""Steps of the optimiser: a global batch, shared among processes and accumulated in micro-batches.

Losses are sums over counts, not means of means: how a batch is divided changes nothing.
"""

import contextlib
import math
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stages.training.batches import Batch, micro_batches, share
from stages.training.checkpoints import CurveRow, Progress
from stages.training.finite import NotFiniteError
from stages.training.optimisation import learning_rate
from stages.training.processes import Processes

if TYPE_CHECKING:
    from stages.params import Launch, Schedule


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


class Steps:
    """What a step does to an objective's model, and what was measured since the last flush."""

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        schedule: "Schedule",
        num_steps: int,
        launch: "Launch",
        processes: Processes,
        seed: int,
    ) -> None:
        module = cast(nn.Module, objective)
        self.objective, self.optimizer = objective, optimizer
        self.wrapped = DistributedDataParallel(module) if processes.world_size > 1 else module
        self.schedule, self.num_steps, self.launch = schedule, num_steps, launch
        self.processes, self.seed = processes, seed
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Losses add up on the device: reading them every step would make the host wait for it.
        self.sums = torch.zeros(len(objective.terms) + 1, device=processes.device)
        # The first step at which each term, or the gradient, was not finite; 0 for none so far.
        self.bad_step = torch.zeros(len(objective.terms) + 1, device=processes.device)
        self.num_summed = 0

    def step(self, step: int, batch: Batch) -> None:
        """Learn from the global batch of a step, counted from 0."""
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
