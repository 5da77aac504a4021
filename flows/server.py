"""A Prefect server on loopback for as long as a flow needs one, and the one `make ui` keeps.

Prefect's own answer to "no server configured" lives inside the flow's process and loses task
records. So a flow without PREFECT_API_URL uses the server of `make ui` if that is up, and otherwise
starts a real one. All of them keep their records in PREFECT_HOME, by default .prefect here.
"""

import json
import os
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows import processes
from flows.environment import prefect_home
from stages.errors import DistilleryError
from stages.files import SCRATCH, write_json

HOST = "127.0.0.1"
START_SECONDS = 180.0
"""A first start also makes the database: 13 s on two quiet cores, a minute on busy ones."""
STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Server:
    """A Prefect server that this process started."""

    api_url: str
    group: processes.ProcessGroup
    log: Path

    @property
    def page(self) -> str:
        """Where a person looks."""
        return self.api_url.removesuffix("/api")


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def is_port_free(port: int) -> bool:
    """Tell whether a server could listen on a port of loopback."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def start_server(root: Path, port: int) -> Server:
    """Start a Prefect server and return at once; `wait_until_up` tells when it answers."""
    log = root / SCRATCH / f"prefect-server-{port}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    api_url = f"http://{HOST}:{port}/api"
    # The port must be in the environment too: --port alone leaves the page looking at port 4200.
    environment = os.environ | {
        "PREFECT_API_URL": api_url,
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start"]
    with log.open("wb") as output:
        group = processes.start(
            [*command, "--host", HOST, "--port", str(port)],
            cwd=root,
            env=environment,
            stdout=output,
            grace_seconds=STOP_SECONDS,
        )
    return Server(api_url, group, log)


def wait_until_up(server: Server) -> None:
    """Wait until a server answers.

    Raises:
        DistilleryError: it ended, or did not answer in time; the message shows its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while not answers(server.api_url):
        if (code := server.group.command.poll()) is not None:
            raise DistilleryError(
                f"the Prefect server ended with exit code {code} before it answered. "
                f"Its log ({server.log}) ends:\n{_tail(server.log)}"
            )
        if time.monotonic() > deadline:
            raise DistilleryError(
                f"the Prefect server did not answer within {START_SECONDS:g} s at "
                f"{server.api_url}. Is the machine very busy? Start one yourself (make ui) and try "
                f"again. Its log ({server.log}) ends:\n{_tail(server.log)}"
            )
        time.sleep(0.1)


def stop_server(server: Server) -> None:
    """Stop a server and everything it started."""
    processes.stop(server.group, STOP_SECONDS)


@contextmanager
def running_server(root: Path, port: int | None = None) -> Iterator[Server]:
    """Have a Prefect server that answers for a block, by default at any free port.

    Raises:
        DistilleryError: it ended, or did not answer in time.
    """
    started = start_server(root, free_port() if port is None else port)
    try:
        wait_until_up(started)
        yield started
    finally:
        stop_server(started)


def answers(api_url: str) -> bool:
    """Tell whether a Prefect server answers at an address."""
    try:
        with urllib.request.urlopen(f"{api_url}/health", timeout=5) as reply:  # noqa: S310 - http
            return bool(json.load(reply))
    except (OSError, ValueError):
        return False


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-10:])


# ------------------------------------------------------------------------- the one of `make ui`


@contextmanager
def advertised(server: Server) -> Iterator[None]:
    """Let the flows of this project find a server for as long as the block lasts."""
    note = _note()
    write_json(note, {"api_url": server.api_url, "pid": server.group.command.pid})
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def advertised_url() -> str | None:
    """Return the address of the server that `make ui` keeps for this project, if it is up."""
    try:
        note = json.loads(_note().read_text(encoding="utf-8"))
        is_there = psutil.pid_exists(note["pid"]) and answers(note["api_url"])
    except (OSError, ValueError, KeyError):
        return None
    return str(note["api_url"]) if is_there else None


def _note() -> Path:
    return prefect_home() / "ui.json"
