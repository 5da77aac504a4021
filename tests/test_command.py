"""A command that is stopped, by Ctrl-C and at any moment: one line, and it can be run again."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start Python in a process group of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def said_after_ctrl_c(process: subprocess.Popen[str]) -> str:
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=60)[1]


def test_ctrl_c_is_answered_in_a_line(tmp_path: Path) -> None:
    settings = tmp_path / "params.yaml"
    os.mkfifo(settings)
    command = started(tmp_path, "-m", "stages.params", "check")
    with settings.open("w"):  # open once the command reads it
        assert said_after_ctrl_c(command) == "stopped; run the same command again to go on\n"
    assert command.returncode == -signal.SIGINT


def test_a_pool_of_processes_ends_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(
        "import os, time\n"
        "from stages.corpus.workers import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(1) as pool:\n"
        "        pool.submit(os.getpid).result()\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(60)\n"
    )
    program = started(tmp_path, "pool.py")
    assert program.stdout is not None
    assert program.stdout.readline() == "begun\n"
    said = said_after_ctrl_c(program)
    assert said.count("Traceback") == 1, said  # the program's own: no command of the house


def test_an_environment_that_was_stopped_in_the_making_is_made_again(tmp_path: Path) -> None:
    """The folder is there, with a Python that has no pip: `make demo` was stopped in its second."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements.lock").touch()
    half_made = tmp_path / ".venv" / "bin" / "python"
    half_made.parent.mkdir(parents=True)
    half_made.write_text("#!/bin/sh\nexit 1\n")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    for program in (half_made, python):
        program.chmod(0o755)
    made = subprocess.run(
        ["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, check=False
    )
    assert made.returncode == 2  # the next step has no pip either
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "-m venv .venv"
