"""The champion against its teacher over HTTP: requests a second, and how long the slow ones take.

    python -m benchmarks.serving --root /path/to/a/finished/project

Both are served by `mlflow models serve` (one worker, ONNX Runtime, CPU, loopback): the champion
from the registry, the teacher from the same code over the graph that its own export would have.
Rounds alternate between the two, so that a busy machine slows both. One request has one text of
some forty tokens and asks for the five likeliest words.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from flows.server import free_port
from stages.command import parser_for
from stages.export.graph import write_fp32
from stages.registry.upload import FILL_MASK
from stages.tracking.store import import_mlflow, open_store

HOST = "127.0.0.1"
TEXT = (
    "Return the [MASK] of the array along the given axis, ignoring values that are not numbers; "
    "if the axis is not given, the array is flattened before it is computed."
)
BODY = json.dumps({"dataframe_records": [{"text": TEXT}]})
HEADERS = {"Content-Type": "application/json"}


def save_teacher(folder: Path, out: Path) -> None:
    """Save a teacher as MLflow would have it, had it been registered like a student."""
    from transformers import AutoModelForMaskedLM

    mlflow = import_mlflow()
    graph = out.parent / "teacher.onnx"
    write_fp32(AutoModelForMaskedLM.from_pretrained(folder).eval(), graph)
    mlflow.pyfunc.save_model(
        out,
        python_model=str(FILL_MASK),
        artifacts={
            "onnx_fp32": str(graph),
            "tokenizer": str(folder / "tokenizer.json"),
            "config": str(folder / "config.json"),
        },
        model_config={"precision": "fp32"},
        pip_requirements=["mlflow"],
    )


@contextmanager
def served(uri: str, tracking_uri: str, log: Path) -> Iterator[int]:
    """Serve a model for the block, and yield the port."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri]
    options = ["--env-manager", "local", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, *options], env=environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"no answer in time:\n{log.read_text()}"
            time.sleep(0.3)
        yield port
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def load(port: int, num_clients: int, seconds: float) -> tuple[float, list[float]]:
    """Return requests a second and the milliseconds of each; the clients ask without pause."""
    taken: list[float] = []
    until = time.monotonic() + seconds

    def ask() -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=60)
        while (start := time.monotonic()) < until:
            connection.request("POST", "/invocations", BODY, HEADERS)
            reply = connection.getresponse()
            said = reply.read()
            assert reply.status == 200, said
            taken.append(1000 * (time.monotonic() - start))
        connection.close()

    start = time.monotonic()
    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return len(taken) / (time.monotonic() - start), taken


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--model", default="distilbert-student")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    store = open_store(arguments.root)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        save_teacher(arguments.root / "models" / "teacher", folder / "teacher")
        champion = f"models:/{arguments.model}@champion"
        uris = {"teacher": str(folder / "teacher"), "champion": champion}
        ports = {
            who: stack.enter_context(served(uri, store.tracking_uri, folder / f"{who}.log"))
            for who, uri in uris.items()
        }
        for port in ports.values():
            load(port, 1, 2.0)
        print(f"{'clients':>7}  {'model':<9} {'requests/s':>10} {'p50 ms':>7} {'p95 ms':>7}")
        for num_clients in arguments.clients:
            rates: dict[str, list[float]] = {who: [] for who in ports}
            taken: dict[str, list[float]] = {who: [] for who in ports}
            for _ in range(arguments.rounds):
                for who, port in ports.items():
                    rate, times = load(port, num_clients, arguments.seconds)
                    rates[who].append(rate)
                    taken[who] += times
            for who in ports:
                p50, p95 = np.percentile(taken[who], [50, 95])
                rate = float(np.median(rates[who]))
                print(f"{num_clients:>7}  {who:<9} {rate:>10.1f} {p50:>7.1f} {p95:>7.1f}")
            ratio = np.median(np.array(rates["champion"]) / np.array(rates["teacher"]))
            print(f"{'':>7}  median of the rounds' ratios of requests/s: {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
