"""One DVC stage as a process: its output line by line, its exit code, and a sure way to stop.

`dvc --wait-for-lock repro --single-item STAGE`: without the first flag parallel stages lose their
results when they save them, without the second they collide on the upstream they share.
"""

import codecs
import contextlib
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows import processes
from flows.slots import Share
from flows.warm_dvc import WarmDvc

INTERRUPTED = 75
"""A stage's exit code for: asked to stop, and checkpointed (stages/errors.py)."""
KILLED = (-9, 137)
"""SIGKILL, as DVC reports it of a stage, or as the shell in between does."""
NUM_LAST_LINES = 15
PROGRESS_SECONDS = 15.0
"""A progress bar redraws itself many times a second; the log takes one in this time."""

Outcome = Literal[
    "ran", "unchanged", "restored", "failed", "interrupted", "stopped", "busy", "killed"
]


@dataclass(frozen=True, slots=True)
class StageResult:
    """How a stage ended."""

    outcome: Outcome
    """ran; unchanged: DVC found nothing to do; restored: from DVC's run cache; failed; interrupted:
    the stage checkpointed and wants to be run again; stopped: by us, because of a cancellation or a
    timeout; busy: another DVC process holds a path or the lock; killed: the stage or DVC ended by
    SIGKILL, which nobody here sent."""
    exit_code: int
    """The stage's where DVC reports one, otherwise DVC's own. DVC starts stages in a shell: when
    both are asked to stop, dash says -2 where bash passes on the stage's 75."""
    last_lines: tuple[str, ...]


def stage_environment(share: Share) -> dict[str, str]:
    """Return the environment of a stage that may use a share of the machine."""
    environment = dict(os.environ)
    # `python` in dvc.yaml is whatever comes first on PATH: make that the interpreter we run under.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment["OMP_NUM_THREADS"] = str(share.num_threads)
    if share.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = share.gpu
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def run_stage(
    target: str,
    *,
    root: Path,
    dvc: WarmDvc,
    share: Share,
    stop: threading.Event,
    log_line: Callable[[str], None],
    timeout_seconds: float | None = None,
    grace_seconds: float = 60.0,
) -> StageResult:
    """Run one stage through DVC and wait for it.

    Args:
        target: The stage's name, as `dvc stage list` gives it.
        root: The project's folder.
        dvc: Starts DVC.
        share: Of the machine, as OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES.
        stop: Once set, the stage is stopped: SIGINT, a checkpoint, SIGTERM, SIGKILL.
        log_line: Called with each line of output.
        timeout_seconds: Stop the stage after this time.
        grace_seconds: What the stage has to write its checkpoint.
    """
    arguments = ["--wait-for-lock", "repro", "--single-item", target]
    environment = stage_environment(share)
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    tail: deque[str] = deque(maxlen=NUM_LAST_LINES)
    group = processes.guarded(
        lambda number: dvc.start(arguments, cwd=root, env=environment, group=number), grace_seconds
    )
    stopping: processes.Stopping | None = None
    try:
        for line in _lines(group):
            if line is not None:
                if tail and tail[-1].endswith("\r"):
                    tail.pop()  # a bar that has redrawn itself since, or ended
                tail.append(line)
                log_line(line.rstrip())
            if stopping is None and stop.is_set():
                stopping = processes.Stopping(group, grace_seconds)
                log_line(f"stopping {target}: it has {grace_seconds:g} s to write a checkpoint")
            elif stopping is None and deadline is not None and time.monotonic() > deadline:
                stopping = processes.Stopping(group, grace_seconds)
                tail.append(f"stopped after {timeout_seconds:g} s, its time limit")
                log_line(tail[-1])
            if stopping is not None:
                stopping.press()
                if stopping.is_over():
                    break
    except BaseException:
        processes.stop(group, grace_seconds)
        raise
    processes.close(group)
    return _result(
        group.command.returncode,
        tuple(line.rstrip() for line in tail),
        was_stopped=stopping is not None,
    )


def _result(code: int, last_lines: tuple[str, ...], *, was_stopped: bool) -> StageResult:
    """Read from DVC's words what its exit code (255 for every failure) does not say."""
    text = "\n".join(last_lines)
    if code == 0:
        if "is cached - skipping run" in text:
            return StageResult("restored", 0, last_lines)
        return StageResult(
            "unchanged" if "didn't change, skipping" in text else "ran", 0, last_lines
        )
    reported = re.findall(r"exited with (-?\d+)", text)
    stage_code = int(reported[-1]) if reported else code
    if was_stopped:
        return StageResult("stopped", stage_code, last_lines)
    if stage_code in KILLED:
        return StageResult("killed", stage_code, last_lines)
    if stage_code == INTERRUPTED:
        return StageResult("interrupted", stage_code, last_lines)
    is_busy = "is busy, it is being blocked by" in text or "Unable to acquire lock" in text
    return StageResult("busy" if is_busy and not reported else "failed", stage_code, last_lines)


def _lines(group: processes.ProcessGroup) -> Iterator[str | None]:
    """Yield each line of output, and None a few times a second, until the command has ended.

    What ends in a carriage return is a progress bar about to redraw itself: it is thinned out, and
    keeps its return.
    """
    assert group.command.stdout is not None
    with contextlib.closing(group.command.stdout) as stream:
        descriptor = stream.fileno()
        os.set_blocking(descriptor, False)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        pending, next_progress = "", time.monotonic() + PROGRESS_SECONDS
        while True:
            has_ended = group.command.poll() is not None
            is_readable = bool(select.select([descriptor], [], [], 0.0 if has_ended else 0.2)[0])
            piece = os.read(descriptor, 1 << 16) if is_readable else b""
            pending += decoder.decode(piece)
            *parts, pending = re.split(r"(?<=\n)|(?<=\r)(?!\n)", pending)
            for part in parts:
                text = part.rstrip()
                is_progress = part.endswith("\r")
                if not text or (is_progress and time.monotonic() < next_progress):
                    continue
                if is_progress:
                    next_progress = time.monotonic() + PROGRESS_SECONDS
                    text += "\r"
                yield text
            if has_ended and not piece:
                break
            if is_readable and not piece:
                # Nothing more to read: the command has ended, or is about to.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    group.command.wait(0.2)
            yield None
        if pending.strip():
            yield pending.rstrip()
