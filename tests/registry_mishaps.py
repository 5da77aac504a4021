"""What a bad day does to the registry: a locked store, a full disk, lost files, a race, a kill.

    python -m tests.registry_mishaps [WORDS OF ONE]

On a real store with toy students. After each there is a champion and the history is true.
"""

import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

from mlflow import MlflowClient

from flows.server import HOST, free_port
from flows.ui import mlflow_page
from stages.command import parser_for
from stages.errors import DistilleryError
from stages.registry import history
from stages.registry.transitions import promote, rollback
from stages.registry.versions import status
from stages.tracking.store import Store, open_store
from tests.asking import wait_until
from tests.mishaps import ROOT, last_lines, locked, small_disk
from tests.registry_world import (
    MODEL,
    STUDENT,
    other_student,
    register_now,
    upload_of,
    write_gate,
    write_world,
)


def command(*words: str) -> subprocess.Popen[str]:
    """Start a command of the registry in the working folder."""
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def promotion(*words: str) -> subprocess.Popen[str]:
    return command("stages.registry.promotion", *words)


def register() -> tuple[int, str]:
    """Register the student of this folder with the stage's own command."""
    process = command(
        "stages.registry.register", "--student", STUDENT, "--reports", "reports",
        "--export", f"models/export/{STUDENT}", "--out", "reports/registry/x.json",
    )  # fmt: skip
    said = process.communicate(timeout=300)[1]
    return process.returncode, said


def check_history(store: Store) -> list[history.Change]:
    """Return the changes that happened; each begins where the one before it ended."""
    changes = history.read(store, MODEL)
    assert all(change.state != "intended" for change in changes)
    done = [change for change in changes if change.state == "done"]
    champions = [None, *(change.after.champion for change in done)]
    assert [change.before.champion for change in done] == champions[:-1]
    assert history.aliases_now(store, MODEL).champion == champions[-1]
    return changes


def two_students(folder: Path) -> Store:
    """Register two students."""
    store = open_store()
    register_now(folder)
    other_student(folder, "capital")
    register_now(folder)
    return store


def store_locked(folder: Path) -> str:
    store = open_store()
    write_gate(folder)
    begun = time.monotonic()
    with locked(folder / "mlruns" / "mlflow.db"):
        code, said = register()
    seconds = time.monotonic() - begun
    last_lines(said, 4)
    assert code != 0
    again, said = register()
    assert again == 0, said
    assert len(store.client.search_model_versions()) == 1
    return f"refused after {seconds:.0f} s with code {code}; run again, unlocked: one version"


def store_disk_full(folder: Path) -> str:
    """The database is there, and no room for the files."""
    store = open_store()
    home = Path.cwd()
    with small_disk(folder.with_name("small"), megabytes=8) as ballast:
        shutil.copytree(folder / "mlruns", ballast.parent / "mlruns")
        write_world(ballast.parent)
        write_gate(ballast.parent)
        os.chdir(ballast.parent)
        try:
            store = open_store()
            fill(ballast)
            code, said = register()
            assert code != 0
            last_lines(said, 2)
            ballast.unlink()
            again, told = register()
            assert again == 0, told
            (version,) = store.client.search_model_versions()
            (run,) = store.client.search_runs([store.experiment_id("distillation")])
            assert (version.run_id, run.info.status) == (run.info.run_id, "FINISHED")
            assert promote(store, MODEL).changed
        finally:
            os.chdir(home)
    return f"registration failed with code {code}; with room again: one run, one version, promoted"


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def lost_files(folder: Path) -> str:
    store = two_students(folder)
    promote(store, MODEL, 2)
    promote(store, MODEL, 1)
    shutil.rmtree(next((folder / "mlruns").rglob(upload_of(store, 2))))
    refused = promotion("rollback")
    said = refused.communicate()[1]
    last_lines(said, 1)
    assert refused.returncode == 1
    found = status(store, MODEL)
    assert (found["champion"].version, found["previous"].version) == (1, 2)
    check_history(store)
    code, told = register()
    assert code == 0, told
    assert rollback(store, MODEL).version == 2
    check_history(store)
    return "rollback to it is refused, the champion stays; registered again, it can be gone back to"


def races(folder: Path, rounds: int = 4) -> str:
    store = two_students(folder)
    for _ in range(rounds):
        both = [promotion("promote", "--version", str(version)) for version in (1, 2)]
        told = [process.communicate()[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], told
        changes = check_history(store)
    return f"{rounds} races: {len(changes)} changes one after the other, none lost"


def is_at_it(store: Store) -> bool:
    """Tell whether some promotion is between its first write and its last."""
    return any(
        (change.action, change.state) == ("promote", "intended")
        for change in history.read(store, MODEL)
    )


def kills(folder: Path, number: int = 8, seed: int = 0) -> str:
    """Kill a promotion beside another change: at a random moment, or in the midst of its writes."""
    store, rng, ended = two_students(folder), random.Random(seed), 0
    promote(store, MODEL, 1)
    for turn in range(number):
        now = status(store, MODEL)["champion"].version
        victim, other = promotion("promote", "--version", str(3 - now)), promotion("rollback")
        if turn % 2:
            time.sleep(5 + 6 * rng.random())
        else:
            while victim.poll() is None and not is_at_it(store):
                pass
        victim.kill()
        victim.communicate()
        other.communicate()
        ended += victim.returncode == 0
        assert "champion" in status(store, MODEL)
    try:
        rollback(store, MODEL)
    except DistilleryError as error:
        last_lines(str(error))
    changes = check_history(store)
    abandoned = sum(change.state == "abandoned" for change in changes)
    return f"{number} kills ({ended} came too late): {len(changes)} entries, {abandoned} abandoned"


def crossings(folder: Path, rounds: int = 20, seed: int = 0) -> str:
    """Roll back twice at once, on a server, which has no lock."""
    store, rng, port = two_students(folder), random.Random(seed), free_port()
    promote(store, MODEL, 1)
    promote(store, MODEL, 2)
    with mlflow_page(folder, port):
        wait_until(lambda: is_up(port), 120)
        server = replace(store, tracking_uri=f"http://{HOST}:{port}", folder=None)
        server = replace(server, client=MlflowClient(server.tracking_uri))

        def try_once(seconds: float) -> bool:
            time.sleep(seconds)
            try:
                return rollback(server, MODEL).changed
            except DistilleryError:
                return False

        with ThreadPoolExecutor(2) as pool:
            for _ in range(rounds):
                changed = list(pool.map(try_once, (0.0, 0.02 * rng.random())))
                assert any(changed), "the earlier one is let go on"
    changes = check_history(store)
    abandoned = sum(change.state == "abandoned" for change in changes)
    return f"{rounds} pairs: {len(changes)} entries, {abandoned} of them gave way, history true"


def is_up(port: int) -> bool:
    with contextlib.suppress(OSError), urlopen(f"http://{HOST}:{port}/health", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


MISHAPS: dict[str, Callable[[Path], str]] = {
    "MLflow's SQLite is locked": store_locked,
    "the disk is full": store_disk_full,
    "files of a version are deleted": lost_files,
    "two promotions at once": races,
    "a promotion is killed beside another": kills,
    "two rollbacks cross on a server": crossings,
}


def main() -> None:
    """Have the mishaps, and print what came of each."""
    parser = parser_for(__doc__)
    parser.add_argument("words", nargs="?", default="", help="only those whose title has them")
    words = parser.parse_args().words
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    for title, mishap in MISHAPS.items():
        if words not in title:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "project"
            write_world(folder)
            os.chdir(folder)
            print(f"{title}: {mishap(folder)}", flush=True)
            os.chdir(ROOT)


if __name__ == "__main__":
    main()
