"""Child processes that never outlive us: a process group that is stopped gently, then for certain.

A group has two members we start: a guard, which leads the group, and the command. The guard waits
on a pipe that only we hold open. Should we be killed outright, the pipe closes and the guard stops
the group in our stead, so that nothing is orphaned.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import psutil

TERM_SECONDS = 10.0
"""How long a group has between SIGTERM and SIGKILL."""

# The group's number is the guard's, and the guard is reaped last: a signal to the group can never
# reach a stranger that was given the number of a command that had already ended.
_GUARD = """
trap '' INT TERM HUP
read -r _
kill -INT 0; sleep "$1"
kill -TERM 0; sleep "$2"
kill -KILL 0
"""


class Command(Protocol):
    """What a group asks of its command; subprocess.Popen answers it."""

    pid: int
    stdout: IO[bytes] | None
    returncode: Any

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, at most so many seconds."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """A running command, and the group it lives in with everything it starts."""

    command: Command
    guard: subprocess.Popen[bytes]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the group."""
        os.killpg(self.guard.pid, number)


def start(
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    stdout: int | IO[bytes],
    grace_seconds: float,
) -> ProcessGroup:
    """Start a command in a group of its own, errors joined to its output, nothing to read from.

    The group is of this session (not a new one) so that the guard and the command can share it;
    like a new session it keeps the terminal's Ctrl-C, which is for us, away from the command.
    """

    def in_group(group: int) -> Command:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            process_group=group,
        )

    return guarded(in_group, grace_seconds)


def guarded(start_in: Callable[[int], Command], grace_seconds: float) -> ProcessGroup:
    """Make a group with a guard, and have a command started in it."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "guard", str(grace_seconds), str(TERM_SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        process_group=0,
    )
    try:
        command = start_in(guard.pid)
    except BaseException:
        guard.kill()
        _reap(guard)
        raise
    return ProcessGroup(command, guard)


def close(group: ProcessGroup) -> None:
    """Kill whatever is left of a group whose command has ended, and forget it."""
    group.signal(signal.SIGKILL)
    group.command.wait()
    _reap(group.guard)


def stop(group: ProcessGroup, grace_seconds: float) -> int:
    """Stop a group: SIGINT, time to write a checkpoint, SIGTERM, SIGKILL. Returns the exit code."""
    stopping = Stopping(group, grace_seconds)
    while not stopping.is_over():
        stopping.press()
        time.sleep(0.05)
    close(group)
    return int(group.command.returncode)


class Stopping:
    """The way from a request to a certainty: `press` it now and then until it `is_over`."""

    def __init__(self, group: ProcessGroup, grace_seconds: float) -> None:
        self._group = group
        self._family: set[psutil.Process] = set()
        now = time.monotonic()
        # SIGINT, not SIGTERM, comes first: dvc dies of SIGTERM and leaves its stage running.
        self._steps = [
            (now, signal.SIGINT),
            (now + grace_seconds, signal.SIGTERM),
            (now + grace_seconds + TERM_SECONDS, signal.SIGKILL),
        ]

    def press(self) -> signal.Signals | None:
        """Send the signal that is due, if one is, and return it."""
        if not self._steps or time.monotonic() < self._steps[0][0]:
            return None
        _, number = self._steps.pop(0)
        # torchrun starts its workers in sessions of their own: a signal to the group does not
        # arrive there, and once torchrun is dead nothing tells that they were its children.
        self._family.update(descendants(self._group.command.pid))
        self._group.signal(number)
        if number is signal.SIGKILL:
            for process in self._family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return number

    def is_over(self) -> bool:
        """Tell whether the command and everything below it has ended."""
        ended = self._group.command.poll() is not None
        return ended and not any(is_alive(process) for process in self._family)


def descendants(pid: int) -> list[psutil.Process]:
    """Return every process below one, near or far."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def is_alive(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; one that waits to be asked about (a zombie) has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _reap(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait()
