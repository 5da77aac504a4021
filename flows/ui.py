"""Both pages on loopback: Prefect's, with every flow run of this project, and MLflow's.

    make ui      or      python -m flows.ui

Ctrl-C stops both. While it is up, flows use its Prefect server instead of starting their own.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows import processes, server
from flows.environment import project_root
from stages.command import parser_for, run, without_secret
from stages.errors import DistilleryError
from stages.files import SCRATCH
from stages.tracking.store import DATABASE

PORTS = {"Prefect": 4200, "MLflow": 5000}
STOP_SECONDS = 10.0


def main(arguments: argparse.Namespace) -> None:
    """Start what is not running elsewhere, say where it is, and wait for Ctrl-C."""
    root = project_root()
    with ExitStack() as pages:
        watched: list[tuple[str, processes.ProcessGroup]] = []
        if url := os.environ.get("PREFECT_API_URL"):
            print(f"Prefect: {without_secret(url).removesuffix('/api')} (PREFECT_API_URL)")
        else:
            prefect = pages.enter_context(_prefect_page(root, arguments.prefect_port))
            watched.append(("Prefect", prefect.group))
            print(f"Prefect: {prefect.page}")
        tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
        if tracking.startswith("http"):
            print(f"MLflow:  {without_secret(tracking)} (MLFLOW_TRACKING_URI)")
        elif not (root / DATABASE).is_file():
            print(f"MLflow:  no runs yet; {DATABASE} appears with the first: make demo")
        else:
            watched.append(
                ("MLflow", pages.enter_context(mlflow_page(root, arguments.mlflow_port)))
            )
            print(f"MLflow:  http://{server.HOST}:{arguments.mlflow_port} (up in half a minute)")
        if not watched:
            return
        print("Ctrl-C stops what was started here.", flush=True)
        try:
            _watch(watched)
        except KeyboardInterrupt:
            print("\nStopping.")


@contextmanager
def _prefect_page(root: Path, port: int) -> Iterator[server.Server]:
    _check_port("Prefect", port, "--prefect-port")
    with server.running_server(root, port) as started, server.advertised(started):
        yield started


@contextmanager
def mlflow_page(root: Path, port: int) -> Iterator[processes.ProcessGroup]:
    """Have MLflow's page of a project for the block."""
    _check_port("MLflow", port, "--mlflow-port")
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1"]
    address = ["--host", server.HOST, "--port", str(port)]
    store = ["--backend-store-uri", f"sqlite:///{root / DATABASE}"]
    artifacts = ["--default-artifact-root", (root / DATABASE.parent / "artifacts").as_uri()]
    log = root / SCRATCH / "mlflow-ui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        group = processes.start(
            [*command, *address, *store, *artifacts],
            cwd=root,
            env=os.environ,
            stdout=output,
            grace_seconds=STOP_SECONDS,
        )
    try:
        yield group
    finally:
        processes.stop(group, STOP_SECONDS)


def _check_port(name: str, port: int, option: str) -> None:
    if not server.is_port_free(port):
        raise DistilleryError(
            f"port {port} of {server.HOST} is taken, perhaps by another make ui: stop it, or give "
            f"{name} another port: python -m flows.ui {option} {port + 1}"
        )


def _watch(watched: list[tuple[str, processes.ProcessGroup]]) -> None:
    while True:
        for name, group in watched:
            if (code := group.command.poll()) is not None:
                raise DistilleryError(
                    f"{name} ended with exit code {code}; its log is in {SCRATCH}/"
                )
        time.sleep(0.5)


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--prefect-port", type=int, default=PORTS["Prefect"])
    parser.add_argument("--mlflow-port", type=int, default=PORTS["MLflow"])
    run(main, parser)
