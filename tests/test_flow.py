"""The flow on a small real DVC project, with a real Prefect server: it and `dvc repro` agree."""

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy_project import make_project

from flows import server
from flows.stores import check_prefect
from tests.asking import ask, deployments, final_state, miss_run, start_run, wait_until
from tests.living import outliving

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

# Every stage says in ran.log that it ran. train asks for the whole machine, score@a and score@b run
# side by side, aside depends on nothing the others make.
DVC_YAML = """
stages:
  source:
    cmd: echo source >> ran.log; cp seed.txt source.txt
    deps: [seed.txt]
    outs: [source.txt]
  train:
    cmd: echo train >> ran.log; cat source.txt source.txt > model.txt
    deps: [source.txt]
    outs: [model.txt]
    meta: {exclusive: true}
  score:
    foreach: [a, b]
    do:
      cmd: >-
        echo score@${item} >> ran.log;
        sh rule-${item}.sh && (cat model.txt; echo ${item}) > score-${item}.txt
      deps:
      - model.txt
      - rule-${item}.sh
      outs:
      - score-${item}.txt
  report:
    cmd: echo report >> ran.log; cat score-a.txt score-b.txt > report.txt
    deps: [score-a.txt, score-b.txt]
    outs: [report.txt]
  aside:
    cmd: echo aside >> ran.log; echo aside > aside.txt
    deps: [seed.txt]
    outs: [aside.txt]
"""
STAGES = {"source", "train", "score@a", "score@b", "report", "aside"}


@pytest.fixture(scope="module")
def first_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A project, and its first flow run: with no server configured."""
    root = make_project(tmp_path_factory.mktemp("project"), DVC_YAML)
    for name in ("a", "b"):
        (root / f"rule-{name}.sh").write_text("true\n", encoding="utf-8")
    return root, run_flow(root)


@pytest.fixture(scope="module")
def prefect(
    first_run: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The API address of a server that the tests of this file share."""
    root = tmp_path_factory.mktemp("server")
    # With a database that is made already.
    shutil.copytree(first_run[0] / ".prefect", root / ".prefect")
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_HOME", str(root / ".prefect"))
            patch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "2")
            started = stack.enter_context(server.running_server(root))
        yield started.api_url


@pytest.fixture
def built(first_run: tuple[Path, object], tmp_path: Path) -> Path:
    """A copy of the project, up to date."""
    root = tmp_path / "project"
    shutil.copytree(first_run[0], root, ignore=shutil.ignore_patterns(".prefect", "ran.log"))
    return root


def environment(root: Path, api_url: str | None = None) -> dict[str, str]:
    known = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    known |= {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(root / ".prefect"), "PWD": str(root)}
    return known | ({"PREFECT_API_URL": api_url} if api_url else {})


def run_flow(
    root: Path, api_url: str | None = None, *options: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.distillation", *options],
        cwd=root,
        env=environment(root, api_url),
        capture_output=True,
        text=True,
        check=False,
    )


def dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def ran(root: Path) -> set[str]:
    log = root / "ran.log"
    lines = log.read_text(encoding="utf-8").split() if log.exists() else []
    assert len(lines) == len(set(lines)), "a stage ran twice"
    return set(lines)


def latest_tasks(api_url: str) -> dict[str, str]:
    """Return the state of each task of the latest flow run."""
    newest = {"limit": 1, "sort": "START_TIME_DESC"}
    run_id = ask(api_url, "flow_runs/filter", newest)[0]["id"]
    tasks = ask(api_url, "task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    return {task["name"].split("-")[0]: task["state"]["name"] for task in tasks}


# ------------------------------------------------------------------------------------- agreement


def test_with_no_server_configured_every_stage_runs_and_is_recorded(
    first_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    root, done = first_run
    assert done.returncode == 0, done.stderr
    assert json.loads(dvc(root, "status", "--json")) == {}
    assert ran(root) == STAGES
    with sqlite3.connect(root / ".prefect" / "prefect.db") as database:
        tasks = dict(database.execute("SELECT name, state_type FROM task_run").fetchall())
        progress = database.execute("SELECT data FROM artifact WHERE key = 'progress'").fetchall()
    assert tasks == dict.fromkeys(STAGES, "COMPLETED")
    assert progress == [(100,)]
    assert not [p for p in psutil.process_iter() if str(root) in _folder(p)]


def test_a_second_run_starts_no_stage(built: Path, prefect: str) -> None:
    done = run_flow(built, prefect)
    assert done.returncode == 0, done.stderr
    assert ran(built) == set()
    assert latest_tasks(prefect) == dict.fromkeys(STAGES, "Cached")


def test_after_changes_the_flow_runs_what_dvc_repro_runs(
    built: Path, prefect: str, tmp_path: Path
) -> None:
    # An input changed, and an output is lost, with the cached copy that could bring it back.
    (built / "rule-b.sh").write_text("echo b\n", encoding="utf-8")
    lost = built / "score-a.txt"
    digest = hashlib.md5(lost.read_bytes()).hexdigest()
    lost.unlink()
    (built / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]).unlink()
    twin = tmp_path / "twin"
    shutil.copytree(built, twin)
    dvc(twin, "repro")
    done = run_flow(built, prefect)
    assert done.returncode == 0, done.stderr
    assert ran(built) == ran(twin) == {"score@a", "score@b"}
    assert (built / "dvc.lock").read_bytes() == (twin / "dvc.lock").read_bytes()
    # report only looked: both scores came out as they were.
    assert latest_tasks(prefect)["report"] == "Cached"


def test_a_target_brings_only_what_it_needs(built: Path, prefect: str) -> None:
    (built / "seed.txt").write_text("another\n", encoding="utf-8")
    done = run_flow(built, prefect, "--target", "train")
    assert done.returncode == 0, done.stderr
    assert ran(built) == {"source", "train"}


# --------------------------------------------------------------------------------------- failures


def test_a_failing_stage_fails_the_flow_and_the_others_end(built: Path, prefect: str) -> None:
    (built / "rule-a.sh").write_text("echo the rule says no; exit 4\n", encoding="utf-8")
    (built / "rule-b.sh").write_text("sleep 1\n", encoding="utf-8")
    done = run_flow(built, prefect)
    assert done.returncode == 1
    said = done.stderr[done.stderr.rindex("the flow ended as Failed") :]
    assert "Stage score@a failed with exit code 4" in said
    assert "the rule says no" in said
    assert "Not run: report" in said
    assert ran(built) == {"score@a", "score@b"}
    tasks = latest_tasks(prefect)
    assert (tasks["score@a"], tasks["score@b"], tasks["report"]) == (
        "Failed",
        "Completed",
        "NotReady",
    )


def test_the_flow_waits_for_another_dvc_that_is_at_work(built: Path, prefect: str) -> None:
    """The other one ends as soon as the flow has said that it waits."""
    (built / "rule-a.sh").write_text(
        "echo x > begun; for i in $(seq 600); do [ -e met ] && break; sleep 0.1; done\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "score@a"]
    with subprocess.Popen(command, cwd=built) as other:
        wait_until((built / "begun").exists, 60)
        with subprocess.Popen(
            [sys.executable, "-m", "flows.distillation"],
            cwd=built,
            env=environment(built, prefect),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as flow:
            assert flow.stderr
            said = ""
            for line in flow.stderr:
                said += line
                if "another DVC process is at work here" in line:
                    (built / "met").touch()
        assert other.wait() == 0
    assert flow.returncode == 0, said
    assert "another DVC process is at work here" in said
    assert ran(built) == {"score@a"}
    assert latest_tasks(prefect)["score@a"] == "Cached"


def test_a_wrong_target_is_told_with_the_right_ones_and_no_server_is_started(built: Path) -> None:
    done = run_flow(built, None, "--target", "learn")
    assert done.returncode == 2
    assert "no stage 'learn'; it has: source, train, score, report, aside" in done.stderr
    assert "Prefect server" not in done.stderr


def test_ctrl_c_stops_the_stage_that_runs_and_leaves_nothing(built: Path, prefect: str) -> None:
    (built / "rule-a.sh").write_text("echo $$ > pid; sleep 300\n", encoding="utf-8")
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.distillation"],
        cwd=built,
        env=environment(built, prefect),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pid = wait_until(lambda: (built / "pid").exists() and (built / "pid").read_text().strip(), 60)
    flow.send_signal(signal.SIGINT)
    assert flow.wait(60) != 0
    assert outliving([int(pid)]) == []
    assert latest_tasks(prefect)["score@a"] != "Completed"


# ------------------------------------------------------------------------------------ deployments


def test_deployments_load_are_scheduled_run_and_tell_what_is_stale(
    built: Path, prefect: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flows", "stages", "prefect.yaml"):
        (built / name).symlink_to(ROOT / name)
    env = environment(built, prefect) | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
    # As `prefect deploy` by hand makes them.
    ask(prefect, "work_pools/", {"name": "local", "type": "process"})
    ask(prefect, "work_pools/local/queues", {"name": "workspace"})
    deploy = [sys.executable, "-m", "flows.deploy"]
    subprocess.run(deploy, cwd=built, env=env | {"NOTIFY_URL": told[0]}, check=True)
    queue = ask(prefect, "work_pools/local/queues/workspace", method="GET")
    assert queue["concurrency_limit"] == 1
    found = deployments(prefect)
    assert set(found) == {
        "distillation/on-demand",
        "distillation/weekly",
        "check/nightly",
        "ablations/sweep",
        "promote/new-champion",
        "rollback/previous-champion",
    }
    on_demand = found["distillation/on-demand"]
    form = on_demand["parameter_openapi_schema"]["properties"]
    profiles = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))
    assert form["profile"]["enum"] == ["as it is", *profiles]
    assert form["targets"]["items"]["enum"] == ["source", "train", "score", "report", "aside"]
    assert on_demand["work_queue_name"] == "workspace"
    assert not found["distillation/weekly"]["schedules"][0]["active"]

    # A library too new for Prefect keeps schedules from firing without a word (requirements.in).
    nightly = found["check/nightly"]
    scheduled = {
        "deployments": {"id": {"any_": [nightly["id"]]}},
        "flow_runs": {"state": {"name": {"any_": ["Scheduled"]}}},
    }
    wait_until(lambda: ask(prefect, "flow_runs/filter", scheduled), 30)
    # Late by name, and not yet for the worker.
    details = {"scheduled_time": "2099-01-01T00:00:00Z"}
    late = {"state": {"type": "SCHEDULED", "name": "Late", "state_details": details}}
    ask(prefect, f"deployments/{nightly['id']}/create_flow_run", late)
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert "1 runs are late, and no worker is up for pool local" in said_of_prefect(built)

    # Two nights without a worker, the second by two schedules: it comes back, and one is enough.
    (built / "rule-b.sh").write_text("echo b\n", encoding="utf-8")
    now = datetime.now(UTC)
    nights = [now - timedelta(days=2), *2 * [now - timedelta(days=1)]]
    missed = [miss_run(prefect, "check/nightly", night) for night in nights]
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
    worker = subprocess.Popen(command, cwd=built, env=env)
    try:
        ended = [final_state(prefect, run) for run in missed]
        *skipped, state = sorted(ended, key=lambda state: state["name"] == "Stale")
        assert [one["name"] for one in skipped] == ["Skipped", "Skipped"]
        assert state is not ended[0]
        message = "2 of 6 stages would run; changed: score@b."
        assert (state["type"], state["name"], state["message"]) == ("COMPLETED", "Stale", message)
        wait_until(lambda: len(told) > 1, 30)
        assert f"check: Stale\n{message}" in told[1]
        state = final_state(prefect, start_run(prefect, "distillation/on-demand"))
        assert state["message"] == "1 of 6 stages had to run."
        # Where a worker is up it is no fault.
        assert "1 runs wait until those before them have ended" in said_of_prefect(built)
    finally:
        worker.send_signal(signal.SIGINT)
        worker.wait(30)


def said_of_prefect(root: Path) -> str:
    return "\n".join(finding.said for finding in check_prefect(root))


@pytest.fixture
def told() -> Iterator[list[str]]:
    """An address, and after it what has been POSTed there."""

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            heard.append(json.loads(body)["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as listener:
        heard = [f"http://127.0.0.1:{listener.server_address[1]}"]
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield heard
        listener.shutdown()


def _folder(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
