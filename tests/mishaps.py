"""What a bad day does to a run, one mishap after another; each must be survived or clearly refused.

    python -m tests.mishaps

Kills are another drill's (tests/drills.py). These run on a toy graph with a real server, and on a
real registry with a toy student; the last lines of what was said are printed.
"""

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import server
from tests import registry_world
from tests.toy_project import make_project

ROOT = Path(__file__).resolve().parent.parent
DVC_YAML = """
stages:
  source:
    cmd: cp seed.txt source.txt
    deps: [seed.txt]
    outs: [source.txt]
  train:
    cmd: echo x >> ran.log; touch begun; sleep 10; cat source.txt source.txt > model.txt
    deps: [source.txt]
    outs: [model.txt]
    meta: {exclusive: true}
  report:
    cmd: cp model.txt report.txt
    deps: [model.txt]
    outs: [report.txt]
"""


class Flow:
    """A flow run in a toy project, and what it says."""

    def __init__(self, root: Path, api_url: str) -> None:
        self.log = root / f"flow-{time.monotonic_ns()}.txt"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": api_url}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.distillation"],
                cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(900)
        return code, self.log.read_text(errors="replace")


def up_to_date(root: Path) -> bool:
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    return subprocess.run(command, cwd=root, capture_output=True, check=True).stdout == b"{}\n"


def trained(root: Path) -> int:
    return len((root / "ran.log").read_text().split())


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)


def two_flows_in_one_workspace(root: Path, api_url: str) -> str:
    first = Flow(root, api_url)
    wait_for(root / "begun")
    second = Flow(root, api_url)
    codes = first.ended()[0], second.ended()[0]
    assert codes == (0, 0), second.ended()[1]
    assert (trained(root), up_to_date(root)) == (1, True)
    return "the second waited, found all up to date and succeeded; training ran once"


def damaged_cache_file(root: Path, api_url: str) -> str:
    assert Flow(root, api_url).ended()[0] == 0
    expected = (root / "model.txt").read_bytes()
    for file in (root / ".dvc" / "cache").rglob("*"):
        if file.is_file() and file.read_bytes() == expected:
            file.chmod(0o644)
            file.write_bytes(b"damaged")
    (root / "model.txt").unlink()
    code, said = Flow(root, api_url).ended()
    assert code == 0, said
    assert (root / "model.txt").read_bytes() == expected
    assert up_to_date(root)
    return f"training ran again ({trained(root)} times in all), the same bytes, dvc status clean"


def server_gone_for_ever(root: Path, started: server.Server) -> str:
    flow = Flow(root, started.api_url)
    wait_for(root / "begun")
    server.stop_server(started)
    begun = time.monotonic()
    code, said = flow.ended()
    seconds = time.monotonic() - begun
    assert code != 0
    print("\n".join(said.splitlines()[-6:]))
    made = "is" if (root / "model.txt").exists() else "is not"
    return f"the flow ended with code {code} after {seconds:.0f} s; the model {made} there"


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold SQLite's exclusive lock for the block."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def prefect_database_locked(root: Path, api_url: str, home: Path) -> str:
    flow = Flow(root, api_url)
    wait_for(root / "begun")
    with locked(home / "prefect.db"):
        time.sleep(15)
    code, said = flow.ended()
    assert code == 0, said
    assert up_to_date(root)
    return "locked for 15 s: the run went on and succeeded"


def store_locked(folder: Path) -> str:
    registry_world.write_world(folder)
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    from stages.tracking.store import open_store

    store = open_store()
    registry_world.write_gate(folder)
    export = f"models/export/{registry_world.STUDENT}"
    command = [sys.executable, "-m", "stages.registry.register", "--student", "distilbert"]
    command += ["--reports", "reports", "--export", export, "--out", "reports/registry/x.json"]

    def register() -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    begun = time.monotonic()
    with locked(folder / "mlruns" / "mlflow.db"):
        refused = register()
    seconds = time.monotonic() - begun
    print("\n".join(refused.stderr.splitlines()[-4:]))
    assert refused.returncode != 0
    again = register()
    assert again.returncode == 0, again.stderr
    versions = store.client.search_model_versions()
    assert len(versions) == 1
    code = refused.returncode
    return f"refused after {seconds:.0f} s with code {code}; run again, unlocked: one version"


def main() -> None:
    """Have every mishap, and print what came of it."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        os.environ["PREFECT_HOME"] = str(base / ".prefect")
        (base / "store").mkdir()
        print(f"MLflow's SQLite is locked: {store_locked(base / 'store')}", flush=True)
        os.chdir(ROOT)
        with server.running_server(base) as started:
            mishaps: dict[str, Callable[[Path], str]] = {
                "two flows in one workspace": lambda p: two_flows_in_one_workspace(
                    p, started.api_url
                ),
                "a damaged file in the cache": lambda p: damaged_cache_file(p, started.api_url),
                "Prefect's SQLite is locked": lambda p: prefect_database_locked(
                    p, started.api_url, base / ".prefect"
                ),
                "the server goes and stays away": lambda p: server_gone_for_ever(p, started),
            }
            for title, mishap in mishaps.items():
                project = base / title.replace(" ", "-")
                project.mkdir()
                print(f"{title}: {mishap(make_project(project, DVC_YAML))}", flush=True)


if __name__ == "__main__":
    main()
