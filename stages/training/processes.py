"""The processes that train together: one, or several that torchrun has started.

Nothing else in the project knows how many there are. With one process everything here is free.
"""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from stages.command import cores_to_use
from stages.errors import DistilleryError, Interrupted, SettingsError
from stages.files import file_lock

if TYPE_CHECKING:
    from stages.params import Launch

LAUNCHER = "DISTILLERY_LAUNCHER"
"""The variable that tells workers the process id of the torchrun they belong to."""
EXIT_CODE = "DISTILLERY_EXIT_CODE"
"""The variable that names the file in which a worker tells that torchrun how it ends."""
SECONDS_BETWEEN_LOOKS = 0.2

T = TypeVar("T")


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

    @property
    def is_first_here(self) -> bool:
        """Whether this process is the first of its machine, and does what one on each must."""
        return os.environ.get("LOCAL_RANK", "0") == "0"

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

    def from_first(self, value: T) -> T:
        """Return the first process's value, in every process."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def copy_from_first(self, tensor: Tensor) -> None:
        """Fill a tensor with what the first process's holds."""
        if self.world_size > 1:
            dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def start_processes(launch: "Launch") -> None:
    """Become torchrun, or whatever `launch.command` names, unless that has happened already.

    The command line of this very process is what every worker runs, so a stage says nothing about
    how it is launched: by hand, by DVC, by torchrun, by a cluster's scheduler.

    Raises:
        SettingsError: what is to be started is not there.
    """
    if "RANK" in os.environ or (launch.num_processes == 1 and launch.command is None):
        return
    spec = sys.modules["__main__"].__spec__
    assert spec is not None
    stage = [spec.name, *sys.argv[1:]]
    # Replacing this process leaves one to signal: no parent that could die and orphan the workers.
    if launch.command is not None:
        try:
            os.execvp(launch.command[0], [*launch.command, *stage])  # noqa: S606 - a list, no shell
        except OSError as error:
            said = f"params.yaml: launch.command begins with {launch.command[0]}: {error.strerror}"
            raise SettingsError(said) from error
    if torch.cuda.is_available() and launch.num_processes > torch.cuda.device_count():
        raise SettingsError(
            f"params.yaml: launch.num_processes = {launch.num_processes}: each has a GPU of its "
            f"own, and {torch.cuda.device_count()} can be used here"
        )
    # Processes that each use every core wait for each other at every barrier. What is set is what
    # all may use: the flow gives a stage its share so.
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores_to_use() // launch.num_processes))
    torchrun = [
        sys.executable,
        "-m",
        "stages.training.torchrun",
        "--standalone",
        f"--nproc-per-node={launch.num_processes}",
        f"--max-restarts={launch.max_restarts}",
        "-m",
    ]
    os.execv(sys.executable, [*torchrun, *stage])  # noqa: S606 - a list, no shell


@contextmanager
def joined_processes() -> Iterator[Processes]:
    """Join the processes that torchrun started, or be the only one, for the length of a block.

    Raises:
        SystemExit: another process of this machine has said why all of them end.
    """
    if "RANK" not in os.environ:
        yield Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))
    _die_with(launcher)
    told = Path(os.environ[EXIT_CODE]) if EXIT_CODE in os.environ else None
    if told is not None:
        told.write_text("", encoding="ascii")
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # Flags and barriers go over gloo even on GPUs: they must not wait for the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    except BaseException as error:
        # Its frames hold a DDP module, which must not be the last to let go of the process group:
        # freeing that, it would wait for a thread of gloo that waits for the interpreter.
        traceback.clear_frames(error.__traceback__)
        # Settings and data are the same after a restart, and so is a full disk.
        code = getattr(error, "exit_code", 1)
        if isinstance(error, DistilleryError) or (isinstance(error, OSError) and error.filename):
            if not _tells_first(told, code):
                raise SystemExit(code) from None
            # torchrun answers, and ends what it was asked to end, with a SIGTERM to every worker:
            # this one has a message to print first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if not isinstance(error, Interrupted):
                # After a restart the workers would only fail with the same message.
                os.kill(launcher, signal.SIGTERM)
        elif isinstance(error, RuntimeError) and told and (said := told.read_text("ascii")):
            # It met no more than the absence of one that has said why.
            raise SystemExit(int(said)) from None
        raise
    finally:
        dist.destroy_process_group()


def _die_with(launcher: int) -> None:
    """End this process as soon as its launcher is gone.

    torchrun gives each worker a session of its own: a kill of the launcher, or of its whole process
    group, would leave workers that hold the machine and go on writing checkpoints.
    """

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="launcher watch", daemon=True).start()


def _tells_first(told: Path | None, exit_code: int) -> bool:
    """Leave the exit code that torchrun shall end with, unless another process has done so."""
    if told is None:
        return True
    with file_lock(told):
        is_first = not told.read_text(encoding="ascii")
        if is_first:
            told.write_text(str(exit_code), encoding="ascii")
    return is_first
