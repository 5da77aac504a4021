"""What the flow costs over plain `dvc repro`: a stage that runs, and a run with nothing to do.

    python -m benchmarks.flow_overhead [--stages 6] [--rounds 3]
    python -m benchmarks.flow_overhead --own-graph

A toy project, whose stages do nothing one after another, is brought up to date from nothing and
then once more, in turns by `dvc repro` and by the flow: with the server of `make ui` up, and with
a server of the flow's own. With --own-graph the stages stand as those of this project's dvc.yaml
do, two side by side where they may: what is added is then what a whole run of it pays.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from dvc.repo import Repo

from flows import server
from flows.graph import Graph, ordered, read_graph
from stages.command import parser_for

ROOT = Path(__file__).resolve().parent.parent
DVC = ("-m", "dvc", "repro")
FLOW = ("-m", "flows.distillation")
WHAT = ("all", "nothing")


def chain(num_stages: int) -> Graph:
    """Return stages of which each needs the one before it."""
    return ordered({str(i): [str(i - 1)] if i else [] for i in range(num_stages)})


def make_project(folder: Path, graph: Graph) -> Path:
    """Make a project with these stages, each of which only says that it ran."""
    folder.mkdir()
    Repo.init(str(folder), no_scm=True).close()
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    (folder / "seed.txt").write_text("0\n")
    stages = {}
    for stage in graph.stages:
        file = f"{stage.name}.txt"
        stages[stage.name.replace("@", "-")] = {
            "cmd": f"echo {stage.name} > {file}",
            "deps": [f"{name}.txt" for name in stage.upstream] or ["seed.txt"],
            "outs": [file],
            "meta": {"exclusive": stage.is_exclusive},
        }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
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
    parser = parser_for(__doc__)
    parser.add_argument("--stages", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--own-graph", action="store_true", help="the stages of this dvc.yaml")
    arguments = parser.parse_args()
    graph = read_graph() if arguments.own_graph else chain(arguments.stages)
    num_stages = len(graph.stages)
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
                    folder = make_project(base / f"{number}-{way}", graph)
                    for what in WHAT:
                        took = seconds(command, folder, url)
                        taken.setdefault((way, what), []).append(took)
    print(f"{'':<22}{num_stages:>2} stages, s   nothing, s   over dvc, s   a stage, s")
    plain, plain_nothing = (statistics.median(taken["dvc repro", what]) for what in WHAT)
    for way in ways:
        everything, nothing = (statistics.median(taken[way, what]) for what in WHAT)
        # Start and end are paid once: what is left is the stages'.
        each = (everything - nothing - (plain - plain_nothing)) / num_stages
        over = everything - plain
        print(f"{way:<22}{everything:>12.1f}{nothing:>13.1f}{over:>14.1f}{each:>13.2f}")


if __name__ == "__main__":
    main()
