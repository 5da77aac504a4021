"""A command that is stopped: one line and no traceback, from itself or from its pool."""

import os
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
