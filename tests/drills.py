"""Kill whole pipeline runs at random, start them again, and compare what they end with.

    python -m tests.drills --kills 30

A run is a project of its own at toy size, with a Prefect server and an MLflow store of its own.
The flow is started; while a random stage is at work something is killed (SIGKILL); a flow that ends
by it is started again at once, as often as it takes. It must end with the student that an
undisturbed run makes, one MLflow run and one version, an empty `dvc status`, and no process left.
What is killed, at random:

* stage: what does the work; DVC reports it to the flow, which tries again
* dvc: the process between the flow and the stage; likewise
* flow: the guard of each stage must stop it
* server: Prefect's, which comes back two seconds later
* machine: the flow and all below it at once
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from flows import server
from stages.command import parser_for
from stages.files import sha256_of
from tests.living import outliving
from tests.tiny_pipeline import environment, make_project

KINDS = ("stage", "dvc", "flow", "server", "machine")
STUDENT = Path("models/students/distilbert/model.safetensors")
# The flow's own limit is far above what a toy stage takes to write a checkpoint.
NUM_STARTS, START_SECONDS, STOP_SECONDS = 6, 1800, 90
VERSIONS = """
import json
from stages.tracking.store import open_store
client = open_store().client
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
print(json.dumps([len(runs), len(client.search_model_versions())]))
"""


class Trial:
    """One project in which the pipeline is started, disturbed and started again."""

    def __init__(self, project: Path) -> None:
        self.project, self.log = project, project.parent / f"{project.name}.log"
        # Where the home is named by the server of this process, it is not the project's.
        os.environ["PREFECT_HOME"] = str(project / ".prefect")
        self.port = server.free_port()
        self.start_server()

    def start_server(self) -> None:
        self.server = server.start_server(self.project, self.port)
        server.wait_until_up(self.server)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the flow, as a person would."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.distillation"],
                cwd=self.project,
                env=environment(PREFECT_API_URL=self.server.api_url),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def started_stages(self) -> list[str]:
        """Return the stages that DVC has started, in order."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return re.findall(r"Running stage '([^']+)'", text)

    def disturb(self, flow: subprocess.Popen[bytes], kind: str, rng: random.Random) -> str | None:
        """Wait for some stage to start, then kill; return the stage, or None if the flow ended."""
        before, skipped = len(self.started_stages()), rng.choice((0, 1, 1, 2, 2, 3))
        while len(found := self.started_stages()) <= before + skipped:
            if flow.poll() is not None:
                return None
            time.sleep(0.02)
        time.sleep(rng.random() * 3)
        with contextlib.suppress(psutil.NoSuchProcess):
            return found[-1] if self.kill(flow, kind) else None
        return None

    def kill(self, flow: subprocess.Popen[bytes], kind: str) -> bool:
        """Kill, and tell whether there was something to kill."""
        if kind == "server":
            os.kill(self.server.group.command.pid, signal.SIGKILL)
            time.sleep(2)
            server.stop_server(self.server)
            self.start_server()
            return True
        family = psutil.Process(flow.pid).children(recursive=True)
        # The process that forks them is one of them.
        dvc = [p for p in family if any("flows.warm_dvc" in word for word in p.cmdline())]
        stage = [p for p in family if any(w.startswith("stages.") for w in p.cmdline()[:4])]
        victims = {
            "stage": stage,
            "dvc": dvc,
            "flow": [psutil.Process(flow.pid)],
            "machine": [psutil.Process(flow.pid), *family],
        }[kind]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
        if kind in ("flow", "machine"):
            flow.wait()
        return bool(victims)

    def finish(self) -> int:
        """Start the flow until it ends well, and return how often that was."""
        for attempt in range(1, NUM_STARTS + 1):
            if self.start().wait(START_SECONDS) == 0:
                return attempt
        raise AssertionError(f"{NUM_STARTS} starts did not end well:\n{self.tail()}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def outcome(self) -> dict[str, object]:
        """Return what the run ended with."""
        status = self.told("-m", "dvc", "status", "--json")
        runs, versions = json.loads(self.told("-W", "ignore", "-c", VERSIONS).splitlines()[-1])
        server.stop_server(self.server)
        here = [p.pid for p in psutil.process_iter() if _folder(p).startswith(str(self.project))]
        return {
            "student": sha256_of(self.project / STUDENT)[:12],
            "runs": runs,
            "versions": versions,
            "dvc status": json.loads(status),
            "left": len(outliving(here, STOP_SECONDS)),
        }

    def told(self, *words: str) -> str:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.project, env=environment(), capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip


def _folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""


def disturbed(trial: Trial, kinds: Iterator[str], kills: int, rng: random.Random) -> list[str]:
    """Kill `kills` times on the way of one run to its end; return what was killed where."""
    told: list[str] = []
    flow = trial.start()
    kind = next(kinds)
    for _ in range(3 * kills):
        if (stage := trial.disturb(flow, kind, rng)) is not None:
            told.append(f"{kind} in {stage}")
            if len(told) == kills:
                break
            kind = next(kinds)
        if flow.poll() == 0:
            break
        if flow.poll() is not None:
            flow = trial.start()
    if flow.wait(START_SECONDS) != 0:
        trial.finish()
    return told


def main() -> None:
    """Run the drill and print one line per run."""
    parser = parser_for(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--per-run", type=int, default=5, help="kills on the way of one run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    kinds = iter(lambda: rng.choice(KINDS), "")
    with tempfile.TemporaryDirectory() as folder:
        origin = make_project(Path(folder) / "origin")
        undisturbed = Trial(shutil.copytree(origin, Path(folder) / "undisturbed"))
        start = time.monotonic()
        undisturbed.finish()
        expected = undisturbed.outcome()
        print(f"undisturbed: {expected} ({time.monotonic() - start:.0f} s)", flush=True)
        num_killed = num_good = number = 0
        while num_killed < arguments.kills:
            number += 1
            start = time.monotonic()
            trial = Trial(shutil.copytree(origin, Path(folder) / f"run-{number}"))
            wanted = min(arguments.per_run, arguments.kills - num_killed)
            try:
                kills = disturbed(trial, kinds, wanted, rng)
                outcome: object = trial.outcome()
            except (AssertionError, subprocess.SubprocessError) as error:
                kills, outcome = [], f"DID NOT END: {error}"
                server.stop_server(trial.server)
            is_good = outcome == expected
            num_killed, num_good = num_killed + len(kills), num_good + len(kills) * is_good
            told = "the same" if is_good else f"ANOTHER: {outcome}"
            seconds = time.monotonic() - start
            print(f"run {number}: {told} ({seconds:.0f} s)\n  {'; '.join(kills)}", flush=True)
            if not is_good:
                kept = Path(tempfile.gettempdir()) / f"drill-{arguments.seed}-{number}.log"
                shutil.copy(trial.log, kept)
                print(f"  log: {kept}", flush=True)
                break
        print(f"{num_good} of {num_killed} kills ended with the same outcome")
        sys.exit(num_good != num_killed or not num_killed)


if __name__ == "__main__":
    main()
