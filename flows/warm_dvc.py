"""DVC that has been imported already: a process beside the flow, which forks for every stage.

`python -m dvc` imports for a second before it does anything; a fork of a process that has done so
begins at once. A fork is otherwise what `python -m dvc` is: a process in the group it is told, with
an environment and an output of its own, and an exit code. The process imports nothing of the
stages, starts no thread, and ends when the flow does, however that ends.
"""

import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

PID_DIGITS = 10
MAX_REQUEST_BYTES = 1 << 20
"""A request is one message: the arguments, and an environment."""
KILLED = -int(signal.SIGKILL)


class Fork:
    """A running DVC command, with what subprocess.Popen has of use to a process group."""

    def __init__(self, pid: int, output: IO[bytes], report: IO[bytes]) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = output
        self.returncode: int | None = None
        self._report = report

    def poll(self) -> int | None:
        """Return the exit code, None while the command runs."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            # No word in it: the process that would have told is dead. What it forked may live on
            # for the moment; whoever closes the group ends it.
            word = self._report.read()
            self._report.close()
            self.returncode = int(word) if word else KILLED
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command to end.

        Raises:
            subprocess.TimeoutExpired: it has not, in this many seconds.
        """
        if self.returncode is None:
            select.select([self._report], [], [], timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("dvc", timeout or 0.0)
        return code


class WarmDvc:
    """Starts DVC commands; the process that forks them is started with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], group: int
    ) -> Fork:
        """Start `dvc ARGUMENTS` in a process group; its output and errors can be read."""
        output, output_end = os.pipe()
        report, report_end = os.pipe()
        message = {"arguments": [*arguments], "cwd": str(cwd), "env": {**env}, "group": group}
        try:
            # Should the process be dead, nobody holds the other end of the report: read as killed.
            with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(
                    self._living_process(), [json.dumps(message).encode()], [output_end, report_end]
                )
        finally:
            os.close(output_end)
            os.close(report_end)
        told = os.fdopen(report, "rb", buffering=0)
        pid = told.read(PID_DIGITS)
        return Fork(int(pid or group), os.fdopen(output, "rb", buffering=0), told)

    def close(self) -> None:
        """End the process, once all it has forked has ended."""
        with self._lock:
            process, requests = self._process, self._requests
            self._process = self._requests = None
        if process is not None and requests is not None:
            requests.close()
            process.wait()

    def _living_process(self) -> socket.socket:
        """Return where requests go, to a new process if there is none or it is dead."""
        if self._requests is not None and self._process is not None:
            if self._process.poll() is None:
                return self._requests
            self._requests.close()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main({theirs.fileno()})"],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the flow, which tells each group.
                process_group=0,
            )
        return self._requests


# -------------------------------------------------------------------------- the process that forks


def serve(requests: socket.socket) -> None:
    """Fork for every request, report how each fork ended, return when no more can come."""
    reports: dict[int, int] = {}
    asking = [requests.fileno()]
    ended, ended_end = os.pipe()
    os.set_blocking(ended_end, False)
    signal.set_wakeup_fd(ended_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while asking or reports:
        readable, _, _ = select.select([*asking, ended], [], [])
        if ended in readable:
            os.read(ended, 1 << 10)
            _report_ended(reports)
        if requests.fileno() in readable:
            message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 2)
            if not message:
                # The flow needs no more, or is dead: then guards end what still runs.
                asking.clear()
                continue
            output, report = descriptors
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                for descriptor in (requests.fileno(), ended, ended_end, report, *reports.values()):
                    os.close(descriptor)
                _be_dvc(output, **json.loads(message))
            os.close(output)
            os.write(report, f"{pid:{PID_DIGITS}}".encode())
            reports[pid] = report


def _report_ended(reports: dict[int, int]) -> None:
    """Tell of each fork that has ended its exit code, negative for a signal."""
    while reports:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        report = reports.pop(pid)
        # Nobody may listen any more.
        with contextlib.suppress(BrokenPipeError):
            os.write(report, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(report)


def _be_dvc(
    output: int, arguments: list[str], cwd: str, env: dict[str, str], group: int
) -> NoReturn:
    """Be what `python -m dvc ARGUMENTS` is, from its first line to its exit code."""
    code = 255
    try:
        os.setpgid(0, group)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        sys.argv = ["dvc", *arguments]
        gc.enable()
        from dvc.cli import main

        code = main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # Not sys.exit: above this are frames of the process that forked.
        os._exit(code & 0xFF)


def _import_dvc() -> None:
    """Import what `dvc repro` imports, most of it late."""
    gc.disable()
    import dvc.cachemgr
    import dvc.cli.parser
    import dvc.commands.repro
    import dvc.data_cloud
    import dvc.dirs
    import dvc.fs
    import dvc.lock
    import dvc.repo.reproduce
    import dvc.rwlock
    import dvc.utils.strictyaml  # noqa: F401

    # After every stage it would tell how to add dvc.lock to git, in four lines.
    logging.getLogger("dvc.repo.scm_context").setLevel(logging.WARNING)
    # Shared by every fork: a collection would copy it all.
    gc.freeze()


def main(descriptor: int) -> None:
    """Be the process that forks, with a socket that was passed on to it."""
    with socket.socket(fileno=descriptor) as requests:
        _import_dvc()
        serve(requests)
