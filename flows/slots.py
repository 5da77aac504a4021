"""Who may use the machine now: an exclusive stage alone, the others side by side."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from stages.command import log
from stages.files import file_lock

SETTLE_SECONDS = 0.1
"""How long a claim waits before it is served. When a stage ends, all that waited for it claims a
slot within milliseconds and in any order: after this pause the order is dvc.yaml's."""


class Stopped(Exception):  # noqa: N818 - a request, not a fault
    """The flow is stopping: no further stage may start."""


def gpus() -> list[str]:
    """Return the GPUs that the flow may use, as CUDA_VISIBLE_DEVICES names them."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [name for name in allowed.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    found = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(number) for number in range(len(found))]


@dataclass(frozen=True, slots=True)
class Share:
    """What a stage may use of the machine."""

    num_threads: int
    gpu: str | None = None
    """The one it is given, where there are several; None leaves it all of them."""


class Slots:
    """A queue for the machine, ordered by the stages' place in the graph.

    Only the first of the queue is served. So a stage that needs the whole machine gets it as
    soon as those that run have ended: none that comes after it may slip in before. A graph is
    finite, thus even the last stage is served. Nobody holds one slot while it waits for another:
    no deadlock. Where there is a machine lock, an exclusive stage holds it too, so that no other
    checkout trains on the same machine; the system frees it when a flow dies.
    """

    def __init__(
        self,
        num_parallel: int,
        cores: int,
        gpus: Sequence[str] = (),
        *,
        machine_lock: Path | None = None,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._num_parallel = num_parallel
        self._cores = cores
        self._on_gpu = dict.fromkeys(gpus, 0)
        self._machine_lock = machine_lock
        self._settle_seconds = settle_seconds
        self._condition = threading.Condition()
        self._queue: list[int] = []
        self._num_running = 0
        self._is_exclusive_running = False
        self._is_stopped = False

    @contextmanager
    def claim(self, place: int, *, is_exclusive: bool) -> Iterator[Share]:
        """Wait for a slot, hold it for the block, and yield what it is worth.

        Args:
            place: The stage's place in the graph; no two stages have the same.
            is_exclusive: Whether the stage wants the whole machine.

        Raises:
            Stopped: the flow is stopping.
        """
        self._wait_for_turn(place, is_exclusive)
        share = Share(self._cores) if is_exclusive else self._share()
        try:
            with ExitStack() as machine:
                if is_exclusive and self._machine_lock is not None:
                    self._lock_machine(machine, self._machine_lock)
                yield share
        finally:
            with self._condition:
                if share.gpu is not None:
                    self._on_gpu[share.gpu] -= 1
                self._num_running -= 1
                self._is_exclusive_running = False
                self._condition.notify_all()

    def stop(self) -> None:
        """Turn away everyone who waits and everyone who comes later."""
        with self._condition:
            self._is_stopped = True
            self._condition.notify_all()

    def _wait_for_turn(self, place: int, is_exclusive: bool) -> None:
        with self._condition:
            self._queue.append(place)
            try:
                self._condition.wait_for(lambda: self._is_stopped, timeout=self._settle_seconds)
                self._condition.wait_for(
                    lambda: self._is_stopped or self._may_start(place, is_exclusive)
                )
                if self._is_stopped:
                    raise Stopped
                self._num_running += 1
                self._is_exclusive_running = is_exclusive
            finally:
                self._queue.remove(place)
                self._condition.notify_all()

    def _share(self) -> Share:
        num_threads = max(1, self._cores // self._num_parallel)
        if len(self._on_gpu) < 2:
            return Share(num_threads)
        with self._condition:
            gpu = min(self._on_gpu, key=self._on_gpu.__getitem__)
            self._on_gpu[gpu] += 1
        return Share(num_threads, gpu)

    def _lock_machine(self, machine: ExitStack, path: Path) -> None:
        is_told = False
        while True:
            try:
                machine.enter_context(file_lock(path, patience_seconds=0.5))
            except BlockingIOError:
                if self._is_stopped:
                    raise Stopped from None
                if not is_told:
                    log.info("waiting for another flow on this machine, which holds %s", path)
                is_told = True
            else:
                return

    def _may_start(self, place: int, is_exclusive: bool) -> bool:
        if place != min(self._queue) or self._is_exclusive_running:
            return False
        return self._num_running == 0 if is_exclusive else self._num_running < self._num_parallel
