"""Which sequences of a step each of many processes computes, checked without starting them."""

from dataclasses import dataclass

import torch

from stages.errors import SettingsError
from stages.params import Launch, Schedule
from stages.training.batches import micro_batches, share


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a global batch falls to processes."""

    num_processes: int
    smallest: int
    """Sequences of the process that has the fewest."""
    largest: int
    passes: int
    """Forward and backward passes of the busiest process in a step."""
    idle: float
    """Share of the processes' time in which they wait for the busiest."""


def sharing_of(schedule: Schedule, launch: Launch, num_processes: int) -> Sharing:
    """Share a step's batch as every one of the processes would, and see that it adds up.

    Raises:
        SettingsError: there are more processes than sequences.
    """
    size = schedule.batch_sequences
    if num_processes > size:
        raise SettingsError(
            f"batch_sequences = {size} is fewer than the {num_processes} processes that share it"
        )
    batch = {"row": torch.arange(size)}
    parts = [share(batch, rank, num_processes) for rank in range(num_processes)]
    # Disjoint, complete and in order: end to end they are the batch again.
    assert torch.equal(torch.cat([part["row"] for part in parts]), batch["row"])
    pieces = [list(micro_batches(part, launch.micro_batch_sequences)) for part in parts]
    for part, of_part in zip(parts, pieces, strict=True):
        assert torch.equal(torch.cat([piece["row"] for piece in of_part]), part["row"])
    sizes = [len(part["row"]) for part in parts]
    # A pass of fewer sequences takes about as much less time.
    return Sharing(
        num_processes=num_processes,
        smallest=min(sizes),
        largest=max(sizes),
        passes=max(len(of_part) for of_part in pieces),
        idle=1 - size / (num_processes * max(sizes)),
    )
