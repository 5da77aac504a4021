"""What the flow costs over plain `dvc repro`: a stage that runs, and a run with nothing to do.

    python -m benchmarks.flow_overhead [--stages 6] [--rounds 3]

A toy project, whose stages do nothing one after another, is brought up to date from nothing and
then once more, in turns by `dvc repro` and by the flow: with the server of `make ui` up, and with
a server of the flow's own.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dvc.repo import Repo

from flows import server

ROOT = Path(__file__).resolve().parent.parent
DVC = ("-m", "dvc", "repro")
FLOW = ("-m", "flows.distillation")


def make_project(folder: Path, num_stages: int) -> Path:
    """Make a chain of stages, each of which copies what the one before it left."""
    folder.mkdir()
    Repo.init(str(folder), no_scm=True).close()
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    (folder / "0.txt").write_text("0\n")
    lines = ["stages:"]
    for i in range(num_stages):
        lines += [f"  stage_{i}:", f"    cmd: cp {i}.txt {i + 1}.txt"]
        lines += [f"    deps: [{i}.txt]", f"    outs: [{i + 1}.txt]"]
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    return folder


def seconds(command: tuple[str, ...], folder: Path, api_url: str | None) -> float:
    """Return how long a command takes in a project."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_HOME": os.environ["PREFECT_HOME"]}
    environment |= {"PREFECT_API_URL": api_url} if api_url else {}
    start = time.monotonic()
    subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True
    )
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    taken: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        os.environ["PREFECT_HOME"] = str(base / ".prefect")
        with server.running_server(base) as started:
            ways = {
                "dvc repro": (DVC, None),
                "flow, server up": (FLOW, started.api_url),
                "flow, its own server": (FLOW, None),
            }
            for number in range(arguments.rounds):
                for way, (command, url) in ways.items():
                    folder = make_project(base / f"{number}-{way}", arguments.stages)
                    for what in ("all", "nothing"):
                        took = seconds(command, folder, url)
                        taken.setdefault((way, what), []).append(took)
    print(f"{'':<22}{arguments.stages} stages, s   nothing, s   over dvc, s a stage")
    plain = statistics.median(taken["dvc repro", "all"])
    for way in ways:
        everything, nothing = (statistics.median(taken[way, what]) for what in ("all", "nothing"))
        # Start and end are paid once: what is left is the stages'.
        each = (everything - nothing) / arguments.stages
        base_each = (plain - statistics.median(taken["dvc repro", "nothing"])) / arguments.stages
        print(f"{way:<22}{everything:>11.1f}{nothing:>13.1f}{each - base_each:>22.2f}")


if __name__ == "__main__":
    main()
