"""A stage as a process: what it says, how it ends, and that nothing of it is left behind."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from toy_project import make_project

from flows import processes
from flows.processes import ProcessGroup
from flows.slots import Share
from flows.stage_process import StageResult, run_stage
from flows.warm_dvc import WarmDvc
from tests.living import outliving

ROOT = Path(__file__).resolve().parent.parent

DVC_YAML = "stages: {it: {cmd: python it.py, deps: [it.py], outs: [out.txt]}}"
STUBBORN = "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\n"


DVC = WarmDvc()


@pytest.fixture(autouse=True, scope="module")
def one_dvc() -> Iterator[None]:
    """The process that forks is shared by the tests of this file."""
    yield
    DVC.close()


def run(root: Path, target: str = "it", **settings: object) -> tuple[StageResult, list[str]]:
    lines: list[str] = []
    options: dict[str, object] = {
        "log_line": lines.append,
        "stop": threading.Event(),
        "share": Share(1),
        "dvc": DVC,
        **settings,
    }
    result = run_stage(target, root=root, **options)  # type: ignore[arg-type]
    return result, lines


def project(tmp_path: Path, script: str) -> Path:
    """Return a project whose one stage runs a Python script."""
    root = make_project(tmp_path, DVC_YAML)
    (root / "it.py").write_text(script, encoding="utf-8")
    return root


def start(command: list[str], tmp_path: Path) -> ProcessGroup:
    return processes.start(
        command, cwd=tmp_path, env=os.environ, stdout=subprocess.DEVNULL, grace_seconds=0.3
    )


def wait_for(path: Path, seconds: float = 20) -> str:
    deadline = time.monotonic() + seconds
    while not (path.is_file() and path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------- how a stage ends


def test_a_stage_runs_and_its_output_arrives_line_by_line(tmp_path: Path) -> None:
    # What is no UTF-8 is no reason to lose a stage.
    script = "import os; print('one'); os.write(1, b'two \\xc3\\xa9 \\xff\\n'); "
    root = project(tmp_path, script + "open('out.txt', 'w').write('done')")
    result, lines = run(root)
    assert (result.outcome, result.exit_code) == ("ran", 0)
    assert lines.index("one") + 1 == lines.index("two \u00e9 \ufffd")
    assert (root / "out.txt").read_text() == "done"
    assert run(root)[0].outcome == "unchanged"
    (root / "out.txt").unlink()
    assert run(root)[0].outcome == "restored"


def test_the_stage_runs_under_our_interpreter_and_with_its_share_of_the_machine(
    tmp_path: Path,
) -> None:
    script = (
        "import os, sys; found = map(os.environ.get, ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')); "
        "open('out.txt', 'w').write(' '.join([sys.prefix, *found]))"
    )
    root = project(tmp_path, script)
    run(root, share=Share(3, gpu="5"))
    assert (root / "out.txt").read_text() == f"{sys.prefix} 3 5"


def test_a_failure_carries_the_stages_exit_code_and_its_last_words(tmp_path: Path) -> None:
    result, _ = run(project(tmp_path, "import sys; print('bad rows: 7'); sys.exit(3)"))
    assert (result.outcome, result.exit_code) == ("failed", 3)
    assert "bad rows: 7" in result.last_lines


def test_of_a_progress_bar_only_its_end_is_among_the_last_words(tmp_path: Path) -> None:
    bar = (
        "import time\n"
        "for i in range(3):\n"
        "    print(f'step {i}', end='\\r', flush=True); time.sleep(0.1)\n"
        "print('step 3', flush=True)\n"
        "raise SystemExit('bad rows: 7')\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.stage_process.PROGRESS_SECONDS", 0.0)
        result, lines = run(project(tmp_path, bar))
    assert "step 1" in lines
    assert [line for line in result.last_lines if "step" in line] == ["step 3"]


def test_exit_code_75_means_interrupted(tmp_path: Path) -> None:
    result, _ = run(project(tmp_path, "import sys; sys.exit(75)"))
    assert (result.outcome, result.exit_code) == ("interrupted", 75)


def test_a_stage_is_killed_with_the_process_that_forked_it_and_the_next_runs(
    tmp_path: Path,
) -> None:
    script = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\n" + (
        "if not os.path.exists('again'): time.sleep(300)\nopen('out.txt', 'w').write('1')"
    )
    root = project(tmp_path, script)

    def kill() -> None:
        wait_for(root / "pid")
        dvc = psutil.Process(int((root / "pid").read_text())).parents()
        next(p for p in dvc if p.ppid() == os.getpid()).kill()

    threading.Thread(target=kill).start()
    assert run(root)[0].outcome == "killed"
    assert outliving([int((root / "pid").read_text())], seconds=10) == []
    (root / "again").touch()
    # DVC takes its dead reader for a living one until the system has forgotten it: the flow, too,
    # tries again.
    outcomes = iter(lambda: run(root)[0].outcome, "ran")
    assert set(itertools.islice(outcomes, 10)) <= {"busy"}
    assert (root / "out.txt").read_text() == "1"


@pytest.mark.slow
def test_a_stage_that_another_dvc_runs_is_busy_not_failed(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        "import os, time\nopen('begun', 'w').write('x')\n"
        "while not os.path.exists('met'): time.sleep(0.05)\nopen('out.txt', 'w').write('1')",
    )
    first: list[StageResult] = []
    other = threading.Thread(target=lambda: first.append(run(root)[0]))
    other.start()
    wait_for(root / "begun")
    assert run(root)[0].outcome == "busy"
    (root / "met").touch()
    other.join()
    assert first[0].outcome == "ran"


def test_a_progress_bar_is_thinned_out(tmp_path: Path) -> None:
    bar = "for i in range(500): print(f'\\rstep {i}', end='', flush=True)\nprint()\n"
    _, lines = run(project(tmp_path, bar + "open('out.txt', 'w').write('1')"))
    # Only the last state of the bar, which a line feed ends.
    assert [line for line in lines if "step" in line] == ["step 499"]


# ------------------------------------------------------------------------------ how it is stopped


def test_a_stop_lets_the_stage_write_its_checkpoint(tmp_path: Path) -> None:
    script = """
import signal, sys, time
def checkpoint(*_):
    time.sleep(0.5)
    open("checkpoint", "w").write("step 7")
    sys.exit(75)
signal.signal(signal.SIGINT, checkpoint)
open("begun", "w").write("x")
time.sleep(60)
"""
    root = project(tmp_path, script)
    stop = threading.Event()
    threading.Thread(target=lambda: (wait_for(root / "begun"), stop.set())).start()
    started = time.monotonic()
    result, _ = run(root, stop=stop)
    # Which code is reported is the shell's affair: dash puts the signal in place of the stage's 75.
    assert result.outcome == "stopped"
    assert result.exit_code in (75, -signal.SIGINT)
    assert (root / "checkpoint").read_text() == "step 7"
    assert time.monotonic() - started < 30


def test_a_stage_that_ignores_every_request_is_killed_and_not_orphaned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "TERM_SECONDS", 0.5)
    script = STUBBORN + "import os; open('pid', 'w').write(str(os.getpid())); time.sleep(300)"
    root = project(tmp_path, script)
    stop = threading.Event()
    threading.Thread(target=lambda: (wait_for(root / "pid"), stop.set())).start()
    result, _ = run(root, stop=stop, grace_seconds=0.5)
    assert result.outcome == "stopped"
    assert outliving([int((root / "pid").read_text())], seconds=10) == []


def test_a_time_limit_stops_the_stage_and_says_so(tmp_path: Path) -> None:
    root = project(tmp_path, "import time; time.sleep(300)")
    result, lines = run(root, timeout_seconds=3.0, grace_seconds=5.0)
    assert result.outcome == "stopped"
    assert "stopped after 3 s, its time limit" in lines


def test_an_exception_while_the_stage_runs_stops_it(tmp_path: Path) -> None:
    root = project(
        tmp_path,
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\nprint('x')\ntime.sleep(300)",
    )

    def break_at_x(line: str) -> None:
        if line == "x":
            raise RuntimeError("the logger broke")

    with pytest.raises(RuntimeError, match="the logger broke"):
        run(root, log_line=break_at_x)
    assert outliving([int((root / "pid").read_text())], seconds=10) == []


def test_a_descendant_in_a_session_of_its_own_is_killed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torchrun starts its workers like this.
    monkeypatch.setattr(processes, "TERM_SECONDS", 0.3)
    child = STUBBORN + "import os; open('pid', 'w').write(str(os.getpid())); time.sleep(300)"
    parent = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
        "time.sleep(300)\n"
    )
    group = start([sys.executable, "-c", parent], tmp_path)
    pid = int(wait_for(tmp_path / "pid"))
    processes.stop(group, grace_seconds=0.3)
    assert outliving([pid], seconds=10) == []


def test_what_a_command_leaves_running_in_its_group_ends_with_it(tmp_path: Path) -> None:
    group = start(["/bin/sh", "-c", "sleep 300 & echo $! > pid"], tmp_path)
    assert group.command.wait() == 0
    processes.close(group)
    assert outliving([int(wait_for(tmp_path / "pid"))], seconds=10) == []
    assert outliving([group.guard.pid], seconds=10) == []


def test_the_group_ends_when_we_are_killed_outright(tmp_path: Path) -> None:
    child = """
import os, signal, time
def checkpoint(*_):
    open("checkpoint", "w").write("step 7")
signal.signal(signal.SIGINT, checkpoint)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open("pid", "w").write(str(os.getpid()))
while True: time.sleep(300)
"""
    parent = (
        "import os, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from flows import processes\n"
        "processes.TERM_SECONDS = 0.3\n"
        f"processes.start([sys.executable, '-c', {child!r}], cwd=Path(), env=os.environ,\n"
        "                stdout=subprocess.DEVNULL, grace_seconds=1)\n"
        "time.sleep(300)\n"
    )
    flow = subprocess.Popen(
        [sys.executable, "-c", parent], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    pid = int(wait_for(tmp_path / "pid"))
    flow.send_signal(signal.SIGKILL)
    flow.wait()
    assert outliving([pid], seconds=10) == []
    assert (tmp_path / "checkpoint").read_text() == "step 7"
