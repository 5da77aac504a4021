"""An MLflow server that does not answer: how long it is waited for, and what is said then."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stages.errors import DistilleryError
from stages.tracking.store import PATIENCE, open_store

pytestmark = pytest.mark.slow


@dataclass
class Absent:
    """A server that is away for its first requests: it hangs up on them."""

    away_for: int
    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def absent(away_for: int) -> Iterator[Absent]:
    state = Absent(away_for)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            state.asked.append(self.path)
            if len(state.asked) <= state.away_for:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://me:secret@127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state
        server.shutdown()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between two tries, and nothing set here outlives the test."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    for name in ("MLFLOW_TRACKING_URI", *PATIENCE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_server_that_is_not_there_is_asked_four_times_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with absent(away_for=9) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        said = r"the MLflow server at http://127.0.0.1:\d+ does not answer; start it, or correct"
        with pytest.raises(DistilleryError, match=said) as caught:
            open_store()
        assert "secret" not in str(caught.value)
        assert len(server.asked) == 4
        # Whoever sets a number means it.
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(DistilleryError, match=said):
            open_store()
        assert len(server.asked) == 5


def test_a_server_that_hangs_up_three_times_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with absent(away_for=3) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        assert open_store().folder is None
        # What follows is waited for longer.
        server.away_for = len(server.asked) + 5
        assert open_store().folder is None
        assert len(server.asked) == 4 + 6
