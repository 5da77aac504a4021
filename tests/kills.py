"""Kill the distill stage at random moments, run it again, and compare the students.

    python -m tests.kills --kills 20

Each kill has a project of its own: the stage is started, killed, and started again until it ends;
the student must then have the sha256 of the one that was never disturbed. What is killed, in turn:

* rank: one of two processes; torchrun goes on by itself from the last checkpoint
* ranks: both of them; likewise
* launcher: torchrun; both processes must be gone at once, and the same command goes on
* machine: everything, and the newest checkpoint loses the end of a file
* process: a run of one process
* write: a run of one process, at the moment of one of its calls that change the disk
"""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from stages.command import parser_for
from stages.files import read_json, sha256_of
from tests.living import outliving
from tests.tiny_pipeline import environment, make_project, settings, write_params
from tests.tiny_shards import write_shards

NUM_STEPS = 40
STUDENT = Path("models/students/distilbert/model.safetensors")
MODULE = "stages.distillation.distill"
ARGUMENTS = [
    "--student", "distilbert", "--teacher", "../teacher", "--shards", "data/shards",
    "--out", "models/students/distilbert", "--report", "reports/distilbert.json",
    "--curve", "reports/distilbert.csv",
]  # fmt: skip
TWO, ONE = ("rank", "ranks", "launcher", "machine"), ("process", "write")
KINDS = ("rank", "process", "launcher", "write", "ranks", "machine")
# Dies without a word at the n-th call that changes the disk, as a power cut would have it.
DIES_AT_A_WRITE = """
import os, runpy, signal, sys
left = int(sys.argv.pop(1))
def deadly(call):
    def counted(*arguments, **named):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counted
for name in ("fsync", "rename", "replace", "rmdir", "unlink"):
    setattr(os, name, deadly(getattr(os, name)))
runpy.run_module("stages.distillation.distill", run_name="__main__", alter_sys=True)
"""


def random_shards(folder: Path, vocabulary_size: int) -> None:
    """Random rows [CLS] ... [SEP] as the shards stage would leave them."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, num in (("train", 96), ("heldout", 16)):
        rows = rng.integers(5, vocabulary_size, size=(num, 32))
        rows[:, 0], rows[:, -1] = 2, 3
        splits[split] = [rows]
    write_shards(folder, splits, vocabulary_size)


def configure(project: Path, dropout: float = 0.1, processes: int = 1, **more: object) -> None:
    """Write the project's params.yaml; `section__key=value` sets more of it."""
    teacher = project.parent / "teacher"
    chosen = settings(teacher, sha256_of(teacher / "model.safetensors"))
    chosen["distill"]["schedule"]["num_steps"] = NUM_STEPS
    chosen["distill"]["dropout"] = dropout
    chosen["launch"] |= {"num_processes": processes, "micro_batch_sequences": 8}
    for dotted, value in more.items():
        section, key = dotted.split("__")
        chosen[section][key] = value
    write_params(project, chosen)


def distillable_project(folder: Path) -> Path:
    """Make a project that has its teacher and its shards and wants a student."""
    project = make_project(folder)
    size = read_json(folder / "teacher" / "config.json")["vocab_size"]
    random_shards(project / "data" / "shards", size)
    configure(project)
    return project


class Trial:
    """One project in which the stage is started, killed and started again."""

    def __init__(self, project: Path, processes: int) -> None:
        self.project, self.log = project, project / "distill.log"
        configure(project, processes=processes)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start the stage, by default as DVC would."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *(command or ("-m", MODULE)), *ARGUMENTS],
                cwd=self.project, env=environment(**variables), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for the end and return the student's sha256."""
        assert process.wait(200) == 0, self.log.read_text()[-4000:]
        return sha256_of(self.project / STUDENT)

    def step(self) -> int:
        """Return the step of the newest checkpoint."""
        return max([0, *(int(p.name[5:]) for p in self.project.glob(".scratch/distill-*/step-*"))])

    def wait_for(self, step: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until a step has its checkpoint."""
        deadline = time.monotonic() + 200
        while self.step() < step:
            assert process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, "the trainer made no progress"
            time.sleep(0.01)

    def lose_the_end_of_a_file(self, rng: random.Random) -> None:
        """Cut a file of the newest checkpoint short, which no power cut does to a renamed one."""
        newest = sorted(self.project.glob(".scratch/distill-*/step-*"))[-1]
        file = rng.choice(sorted(newest.iterdir()))
        content = file.read_bytes()
        file.write_bytes(content[: rng.randrange(len(content))])


def workers_of(launcher: int) -> list[psutil.Process]:
    """Return the processes below torchrun; None of them outlives it."""
    return psutil.Process(launcher).children(recursive=True)


def killed_trial(trial: Trial, kind: str, rng: random.Random) -> tuple[int, str]:
    """Kill a run once and bring it to its end; return the step it had and the student's sha256."""
    if kind == "write":
        # Forty checkpoints of some fifteen calls each, and what the stage writes at the end.
        call = rng.randrange(1, 600)
        process = trial.start("-c", DIES_AT_A_WRITE, str(call))
        assert process.wait(300) == -signal.SIGKILL, trial.log.read_text()[-4000:]
        at = trial.step()
        return at, trial.finish(trial.start())
    process = trial.start()
    trial.wait_for(rng.randrange(1, NUM_STEPS - 6), process)
    time.sleep(rng.random() * 0.05)
    at = trial.step()
    workers = [] if kind == "process" else workers_of(process.pid)
    assert kind == "process" or len(workers) == 2
    victims = {
        "rank": [rng.choice(workers)] if workers else [],
        "ranks": workers,
        "launcher": [psutil.Process(process.pid)],
        "machine": [psutil.Process(process.pid), *workers],
        "process": [psutil.Process(process.pid)],
    }[kind]
    for victim in victims:
        victim.kill()
    if kind not in ("rank", "ranks"):
        process.wait(30)
        orphans = outliving(worker.pid for worker in workers)
        assert not orphans, f"{kind}: {orphans} outlive the launcher"
        if kind == "machine":
            trial.lose_the_end_of_a_file(rng)
        process = trial.start()
    return at, trial.finish(process)


def main() -> None:
    """Run the drill and print one line per kill."""
    parser = parser_for(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        origin = distillable_project(Path(folder))
        undisturbed: dict[int, str] = {}

        def project(name: str) -> Path:
            return Path(shutil.copytree(origin, Path(folder) / name))

        for processes in (1, 2):
            trial = Trial(project(f"undisturbed-{processes}"), processes)
            undisturbed[processes] = trial.finish(trial.start())
        num_identical = 0
        for number in range(arguments.kills):
            kind = KINDS[number % len(KINDS)]
            processes = 2 if kind in TWO else 1
            trial = Trial(project(f"kill-{number}"), processes)
            start = time.monotonic()
            try:
                step, sha256 = killed_trial(trial, kind, rng)
                is_identical = sha256 == undisturbed[processes]
                told = f"killed at step {step:2}: "
                told += "identical" if is_identical else "ANOTHER STUDENT"
            except (AssertionError, subprocess.TimeoutExpired) as error:
                is_identical, told = False, f"DID NOT END: {error}"
            num_identical += is_identical
            seconds = time.monotonic() - start
            print(f"{number + 1:3} {kind:9} {told} ({seconds:.0f} s)", flush=True)
        print(f"{num_identical} of {arguments.kills} students are identical")
        sys.exit(num_identical != arguments.kills)


if __name__ == "__main__":
    main()
