"""Serve the champion over HTTP, and go over to the next one without dropping a request.

    python -m stages.registry.serve [--model sst2-student] [--port 5001]

The protocol is that of `mlflow models serve` (POST /invocations with JSON, GET /ping), and so is
the code behind it. The alias is looked up every few seconds: after a promotion or a rollback the
new version is loaded beside the old one and takes the next request. GET /champion says which one
answers. A version that does not load is said in the log, and the old one goes on.
"""

import argparse
import json
import os
import socket
import threading
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DistilleryError, SettingsError
from stages.registry.versions import Version, champion
from stages.tracking.store import Store, open_store

HOST = "127.0.0.1"
MAX_BODY_BYTES = 2**24
"""What the characters that a model answers at once (upload.py) take where JSON escapes each."""
MAX_NAMES = 100
"""Different names in one request: pandas makes each of them a column of every row."""


class Champion:
    """An ASGI application that hands every request to the scoring server of the champion."""

    def __init__(self, store: Store, model: str) -> None:
        """Load the champion.

        Raises:
            DistilleryError: there is none.
        """
        found = champion(store, model)
        if found is None:
            raise DistilleryError(
                f"{model} has no champion to serve; make one: "
                f"python -m stages.registry.promotion promote --model {model}"
            )
        self._store, self._model = store, model
        self._serving = found, _application(found)

    def __str__(self) -> str:
        """Return which version answers."""
        version = self._serving[0]
        return f"{version.model} version {version.version}"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request with the version that is champion when it comes in."""
        version, application = self._serving
        if scope["type"] == "http" and scope["path"] == "/champion":
            await _answer(send, {"model": version.model, "version": version.version})
            return
        if scope["path"] == "/invocations" and scope["method"] == "POST":
            body = await _body(receive)
            if refusal := _refusal(dict(scope["headers"]), body):
                status, message = refusal
                await _answer(send, {"message": message}, status)
                return
            receive = _once(body, receive)
        await application(scope, receive, send)

    def refresh(self) -> None:
        """Go over to the version that has the alias now, if it is another one."""
        found = champion(self._store, self._model)
        if found is None or found.version == self._serving[0].version:
            return
        self._serving = found, _application(found)
        log.info("%s version %d answers now", found.model, found.version)

    def keep_fresh(self, every_seconds: float, stopped: threading.Event) -> None:
        """Refresh until stopped; whatever goes wrong, the version that serves goes on."""
        while not stopped.wait(every_seconds):
            try:
                self.refresh()
            except Exception as error:
                version = self._serving[0].version
                log.warning("version %d goes on: %s: %s", version, type(error).__name__, error)


def listen(port: int) -> socket.socket:
    """Return a socket on loopback.

    Raises:
        DistilleryError: the port is taken, or may not be had.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise DistilleryError(
            f"port {port} of {HOST} cannot be had ({why}); give another: --port N"
        ) from error


def _application(version: Version) -> Any:
    import mlflow
    from mlflow.pyfunc import scoring_server

    return scoring_server.init(mlflow.pyfunc.load_model(version.uri))


async def _body(receive: Any) -> bytes:
    """Return what was sent; no more than tells that it is too large, whatever its header says."""
    body = bytearray()
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body)


def _once(body: bytes, receive: Any) -> Any:
    """Return a receiver that gives a body that was read already, and then goes on."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Any:
        return waiting.pop() if waiting else await receive()

    return read


def _refusal(headers: dict[bytes, bytes], body: bytes) -> tuple[int, str] | None:
    """Return status and message of a request that MLflow's server is not given.

    It breaks on one without a type, unpacks Parquet of any size, and makes a table of what JSON
    holds before the model counts its rows.
    """
    given = headers.get(b"content-type", b"").decode("latin-1")
    if given.partition(";")[0].strip().lower() != "application/json":
        return 415, f"Content-Type is {given or 'missing'}: must be application/json"
    if len(body) > MAX_BODY_BYTES:
        return 413, f"the body is larger than the {MAX_BODY_BYTES} bytes that this server takes"
    names: set[str] = set()

    def count(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names.update(name for name, _ in pairs)
        if len(names) > MAX_NAMES:
            raise ValueError(f"more than {MAX_NAMES} different names")
        return dict(pairs)

    try:
        json.loads(body, object_pairs_hook=count)
    except (ValueError, RecursionError) as error:
        return 400, f"the body is not JSON that this server takes: {error}"
    return None


async def _answer(send: Any, answer: dict[str, Any], status: int = 200) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def main(arguments: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    if not 0 < arguments.every_seconds <= threading.TIMEOUT_MAX:
        raise SettingsError(
            f"--every-seconds {arguments.every_seconds:g}: must be more than 0 and a time to wait"
        )
    # Before the model is loaded: where the port is taken, all of that would be for nothing.
    listening = listen(arguments.port)
    served = Champion(open_store(), arguments.model or params.load().registry.model_name)
    log.info(
        "%s answers at http://%s:%d/invocations; Ctrl-C stops it", served, HOST, arguments.port
    )
    stopped = threading.Event()
    refresher = threading.Thread(
        target=served.keep_fresh, args=(arguments.every_seconds, stopped), daemon=True
    )
    refresher.start()
    server = uvicorn.Server(uvicorn.Config(served, lifespan="off", ws="none", log_level="warning"))
    server.run(sockets=[listening])
    stopped.set()


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--model", help="registered model (default: registry.model_name)")
    parser.add_argument("--port", type=int, default=5001)
    parser.add_argument(
        "--every-seconds", type=float, default=5.0, help="how often to look who is champion"
    )
    run(main, parser)
