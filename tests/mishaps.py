"""What a bad day does to a run, one mishap after another; each must be survived or clearly refused.

    python -m tests.mishaps [WORDS OF ONE]

Kills of the run itself are another drill's (tests/drills.py), the registry's bad days are in
tests/registry_mishaps.py. These run on a toy graph with a real Prefect server; the last lines of
what was said are printed. Two of them need more: the full disk may mount a file system (root), and
the clock that jumps needs a C compiler (tests/jumping_clock.c).
"""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flows import server
from stages.command import parser_for
from tests.asking import final_state, start_run, wait_until
from tests.toy_project import make_project

ROOT = Path(__file__).resolve().parent.parent
DAY = 86400
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
# Three megabytes, of which the cache wants a copy.
LARGE = DVC_YAML.replace("sleep 10; cat source.txt source.txt", "head -c 3000000 /dev/zero")


class Flow:
    """A flow run in a toy project, and what it says."""

    def __init__(self, root: Path, api_url: str) -> None:
        self.log = root.parent / f"flow-{time.monotonic_ns()}.txt"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": api_url}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.distillation"],
                cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def ended(self) -> tuple[int, str]:
        code = self.process.wait(900)
        return code, self.log.read_text(errors="replace")


def last_lines(text: str, number: int = 6) -> None:
    print("\n".join(f"    {line}" for line in text.splitlines()[-number:]))


def up_to_date(root: Path) -> bool:
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    return subprocess.run(command, cwd=root, capture_output=True, check=True).stdout == b"{}\n"


def trained(root: Path) -> int:
    return len((root / "ran.log").read_text().split())


# -------------------------------------------------------------------------------- the work folder


def two_flows_in_one_workspace(root: Path, started: server.Server) -> str:
    first = Flow(root, started.api_url)
    wait_until((root / "begun").exists, 300)
    second = Flow(root, started.api_url)
    codes = first.ended()[0], second.ended()[0]
    assert codes == (0, 0), second.ended()[1]
    assert (trained(root), up_to_date(root)) == (1, True)
    return "the second waited, found all up to date and succeeded; training ran once"


def damaged_cache_file(root: Path, started: server.Server) -> str:
    assert Flow(root, started.api_url).ended()[0] == 0
    expected = (root / "model.txt").read_bytes()
    for file in (root / ".dvc" / "cache").rglob("*"):
        if file.is_file() and file.read_bytes() == expected:
            file.chmod(0o644)
            file.write_bytes(b"damaged")
    (root / "model.txt").unlink()
    code, said = Flow(root, started.api_url).ended()
    assert code == 0, said
    assert (root / "model.txt").read_bytes() == expected
    assert up_to_date(root)
    return f"training ran again ({trained(root)} times in all), the same bytes, dvc status clean"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Have a file system of this size at a folder for the block, and yield what fills it."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    folder.mkdir(exist_ok=True)
    subprocess.run(mount, check=True)
    try:
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disk_full(root: Path, started: server.Server) -> str:
    with small_disk(root.with_name("small"), megabytes=16) as ballast:
        project = ballast.parent / "project"
        project.mkdir()
        make_project(project, LARGE)
        ballast.write_bytes(b"x" * 11_500_000)
        code, said = Flow(project, started.api_url).ended()
        assert code != 0
        assert "No space left on device" in said
        last_lines(said)
        ballast.unlink()
        code, said = Flow(project, started.api_url).ended()
        assert code == 0, said
        assert (project / "model.txt").stat().st_size == 3_000_000
        assert up_to_date(project)
    return "the stage failed and said so; with room again the same command succeeded"


# ---------------------------------------------------------------------------- server, worker, time


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


def prefect_database_locked(root: Path, started: server.Server) -> str:
    flow = Flow(root, started.api_url)
    wait_until((root / "begun").exists, 300)
    with locked(Path(os.environ["PREFECT_HOME"]) / "prefect.db"):
        time.sleep(15)
    code, said = flow.ended()
    assert code == 0, said
    assert up_to_date(root)
    return "locked for 15 s: the run went on and succeeded"


def worker_killed(root: Path, started: server.Server) -> str:
    for name in ("flows", "stages", "prefect.yaml"):
        (root / name).symlink_to(ROOT / name)
    api_url = started.api_url
    environment = os.environ | {
        "PREFECT_API_URL": api_url, "PYTHONPATH": str(root), "PWD": str(root),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }  # fmt: skip
    subprocess.run([sys.executable, "-m", "flows.deploy"], cwd=root, env=environment, check=True)

    def worker() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
        with (root.parent / "worker.log").open("ab") as log:
            return subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)

    first_worker = worker()
    run_id = start_run(api_url, "distillation/on-demand")
    wait_until((root / "begun").exists, 300)
    first_worker.kill()
    first_worker.wait()
    first = final_state(api_url, run_id)
    second_worker = worker()
    try:
        second = final_state(api_url, start_run(api_url, "distillation/on-demand"))
    finally:
        second_worker.send_signal(signal.SIGINT)
        second_worker.wait(60)
    assert (trained(root), up_to_date(root)) == (1, True)
    names = f"{first['name']} ({first['message']})", f"{second['name']} ({second['message']})"
    return f"its run: {names[0]}; the next, with a new worker: {names[1]}"


def end_server(started: server.Server) -> None:
    """Have it end; whoever started it still has its group to close."""
    started.group.signal(signal.SIGINT)
    started.group.command.wait(60)


@contextmanager
def jumping_clock(folder: Path) -> Iterator[Callable[[int], None]]:
    """For processes started in the block: yield what sets their clock so many days ahead."""
    library, ahead = folder / "jumping_clock.so", folder / "ahead"
    source = ROOT / "tests" / "jumping_clock.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    ahead.write_bytes(bytes(8))

    def jump(days: int) -> None:
        # In place: they have it mapped.
        with ahead.open("r+b") as file:
            file.write((days * DAY).to_bytes(8, sys.byteorder, signed=True))

    os.environ |= {"LD_PRELOAD": str(library), "AHEAD_FILE": str(ahead)}
    try:
        yield jump
    finally:
        del os.environ["LD_PRELOAD"], os.environ["AHEAD_FILE"]


def clock_jumps(root: Path, started: server.Server) -> str:
    """Three days ahead while training is at work, then five days back; server and flow see it."""
    end_server(started)
    with jumping_clock(root.parent) as jump, server.running_server(root.parent) as other:
        flow = Flow(root, other.api_url)
        wait_until((root / "begun").exists, 300)
        jump(3)
        time.sleep(5)
        jump(-2)
        code, said = flow.ended()
        assert code == 0, said
        again, told = Flow(root, other.api_url).ended()
        assert again == 0, told
    last_lines(said)
    assert (trained(root), up_to_date(root)) == (1, True)
    return "3 days ahead, then 5 back, in the middle of training: the run and the next succeeded"


def server_gone_for_ever(root: Path, started: server.Server) -> str:
    flow = Flow(root, started.api_url)
    wait_until((root / "begun").exists, 300)
    end_server(started)
    begun = time.monotonic()
    code, said = flow.ended()
    seconds = time.monotonic() - begun
    assert code != 0
    last_lines(said)
    made = "is" if (root / "model.txt").exists() else "is not"
    return f"the flow ended with code {code} after {seconds:.0f} s; the model {made} there"


MISHAPS: dict[str, Callable[[Path, server.Server], str]] = {
    "two flows in one workspace": two_flows_in_one_workspace,
    "a damaged file in the cache": damaged_cache_file,
    "the disk is full": disk_full,
    "the worker is killed": worker_killed,
    "Prefect's SQLite is locked": prefect_database_locked,
    "the clock jumps": clock_jumps,
    "the server goes and stays away": server_gone_for_ever,
}


def main() -> None:
    """Have the mishaps, each with a server of its own, and print what came of them."""
    parser = parser_for(__doc__)
    parser.add_argument("words", nargs="?", default="", help="only those whose title has them")
    words = parser.parse_args().words
    # A shell that starts this with `&` has it ignored, and so would a worker have it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for title, mishap in MISHAPS.items():
        if words not in title:
            continue
        with tempfile.TemporaryDirectory() as name:
            project = Path(name) / "project"
            project.mkdir()
            make_project(project, DVC_YAML)
            os.environ["PREFECT_HOME"] = str(Path(name) / ".prefect")
            with server.running_server(Path(name)) as started:
                print(f"{title}: {mishap(project, started)}", flush=True)


if __name__ == "__main__":
    main()
