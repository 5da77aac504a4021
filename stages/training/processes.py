"""The processes that train together: one, or several that torchrun has started.

Nothing else in the project knows how many there are. With one process everything here is free.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place among all of them, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes; in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether any process has raised it."""
        if self.world_size == 1:
            return list(flags)
        raised = torch.tensor([int(flag) for flag in flags])
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def start_processes(num_processes: int) -> None:
    """Become torchrun with `num_processes` workers, unless one process is enough or it has run.

    The command line of this very process is what every worker runs, so a stage says nothing about
    how it is launched: by hand, by DVC, by torchrun, by a cluster's scheduler.
    """
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    if "RANK" in os.environ or num_processes == 1:
        return
    # Processes that each use every core wait for each other at every barrier.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    spec = sys.modules["__main__"].__spec__
    assert spec is not None
    # Replacing this process leaves one to signal: no parent that could die and orphan the workers.
    os.execv(  # noqa: S606 - an argument list, no shell
        sys.executable,
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={num_processes}",
            "-m",
            spec.name,
            *sys.argv[1:],
        ],
    )


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one, for the length of a block."""
    if "RANK" not in os.environ:
        yield Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # Flags and barriers go over gloo even on GPUs: they must not wait for the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
