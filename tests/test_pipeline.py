"""The whole way at toy size: the real graph, Prefect server, MLflow store and ONNX Runtime.

And the same with what a team shares: the servers of compose.yaml (tests/team_stack.py).
"""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from flows import server
from stages.files import read_json, sha256_of
from tests.docs_text import blocks
from tests.own_project import YOUR_OWN, make_own_project
from tests.team_stack import Team, running_team, what_is_missing
from tests.tiny_pipeline import environment

pytestmark = pytest.mark.slow


def run(project: Path, *command: str, timeout: float = 600, **variables: str) -> str:
    """Run a command in a project; fail with its output if it fails."""
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-6000:]
    return ran.stdout


@pytest.fixture(scope="module")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which nothing has run yet, with its own text, task and teacher."""
    return make_own_project(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def prefect(new_project: Path) -> Iterator[dict[str, str]]:
    """The variable that names a Prefect server; without any: tests/test_flow.py."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_HOME", str(new_project / ".prefect"))
            started = stack.enter_context(server.running_server(new_project))
        yield {"PREFECT_API_URL": started.api_url}


@pytest.fixture(scope="module")
def project(new_project: Path, prefect: dict[str, str]) -> Path:
    """A project that went through docs/your-own.md, command by command, to a champion."""
    output = ""
    for commands in blocks(YOUR_OWN, "sh"):
        for line in commands.splitlines():
            words = shlex.split(line)
            module = words[2:] if words[:2] == ["python", "-m"] else words
            output += run(new_project, *module, **prefect)
    assert "valid: profile novels" in output
    assert "distilbert-student version 1 (challenger, champion): student distilbert" in output
    return new_project


def printed(project: Path, program: str, **variables: str) -> list[str]:
    """The lines that a Python program prints when it runs in a project."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=project, env=environment(**variables), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ran.stdout.splitlines()


def versions(project: Path) -> list[list[Any]]:
    program = (
        "import json; from stages.tracking.store import open_store\n"
        "found = open_store().client.search_model_versions(\"name = 'distilbert-student'\")\n"
        "print(json.dumps([[v.version, v.tags, v.run_id] for v in found]))"
    )
    return json.loads(printed(project, program)[-1])


def test_nothing_is_left_stale_and_the_demo_has_nothing_to_do(project: Path) -> None:
    assert "up to date" in run(project, "dvc", "status")
    output = run(project, "flows.demo", timeout=60)
    assert "nothing to do" in output
    assert "distilbert" in output


def test_every_report_is_there_and_the_page_holds_the_table(project: Path) -> None:
    reports = project / "reports"
    summary = read_json(reports / "summary.json")
    assert set(summary["models"]) == {"teacher", "distilbert", "mlm_only"}
    for model in summary["models"].values():
        assert set(model["tasks"]) == {"novelist"}
    assert read_json(reports / "expectations.json")["passed"]
    assert read_json(reports / "gate" / "distilbert.json")["passed"]
    assert "mlm_only" in (reports / "report.html").read_text()
    assert (reports / "data_docs" / "index.html").is_file()


PREDICT = (
    "import sys; from stages.tracking.store import import_mlflow, open_store\n"
    "open_store(); mlflow = import_mlflow()\n"
    "model = mlflow.pyfunc.load_model('models:/distilbert-student@champion')\n"
    "print(model.predict([{'text': 'the value of [MASK]'}])[0]['masks'][0][0])\n"
    "print('torch' in sys.modules)"
)


def test_champion_predicts_from_onnx_without_torch_or_pickle(project: Path) -> None:
    *_, answer, has_torch = printed(project, PREDICT)
    assert "'token':" in answer
    assert has_torch == "False"
    kinds = {p.suffix for p in (project / "mlruns").rglob("*") if p.is_file()}
    assert not kinds & {".pkl", ".pickle", ".bin", ".pt", ".pth"}


def test_deleted_students_come_back_without_a_second_version(
    project: Path, prefect: dict[str, str]
) -> None:
    before = sha256_of(project / "models" / "students" / "distilbert" / "model.safetensors")
    shutil.rmtree(project / "models" / "students")
    expected = run(project, "dvc", "status")
    assert "distill@distilbert" in expected
    output = run(project, "flows.distillation", **prefect)
    assert "17 stages, 8 up to date" in output
    after = project / "models" / "students" / "distilbert" / "model.safetensors"
    assert sha256_of(after) == before
    assert "up to date" in run(project, "dvc", "status")
    assert len(versions(project)) == 1


def test_dvc_repro_by_itself_agrees_with_the_flow(project: Path) -> None:
    output = run(project, "dvc", "repro")
    assert "Running stage" not in output


def test_bad_settings_stop_everything_before_anything_runs(project: Path) -> None:
    path = project / "params.yaml"
    good = path.read_text()
    try:
        settings = yaml.safe_load(good)
        settings["distill"]["temperature"] = 0
        path.write_text(yaml.safe_dump(settings))
        for module in ("flows.demo", "flows.distillation"):
            ran = subprocess.run(
                [sys.executable, "-m", module],
                cwd=project, env=environment(), capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert ran.returncode == 2
            assert (
                "distill.temperature = 0: must be greater than 0 (the paper uses 2.0)" in ran.stderr
            )
            assert "Traceback" not in ran.stderr
    finally:
        path.write_text(good)


# --------------------------------------------------------------------------------- with a team


@dataclass(frozen=True, slots=True)
class Shared:
    """A project whose student one member has registered and pushed, and another has pulled."""

    mine: Path
    theirs: Path
    said: dict[str, str]
    """What each command printed."""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """The servers of compose.yaml."""
    if (missing := what_is_missing()) is not None:
        pytest.skip(missing)
    with running_team(tmp_path_factory.mktemp("team")) as started:
        yield started


@pytest.fixture(scope="module")
def shared(project: Path, team: Team, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Take a finished project to the team's servers, as docs/team.md says."""
    folder = tmp_path_factory.mktemp("shared")
    mine, theirs = folder / "mine", folder / "theirs"
    shutil.copytree(project, mine)
    for own in ("mlruns", "reports/registry", ".prefect"):
        shutil.rmtree(mine / own)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    said = {"demo": run(mine, "flows.demo", **team.client)}
    make_bucket = "import boto3; boto3.client('s3').create_bucket(Bucket='dvc')"
    printed(mine, make_bucket, **team.client)
    run(mine, "dvc", "remote", "add", "--default", "team", "s3://dvc/toy")
    said["push"] = run(mine, "dvc", "push", **team.client)
    for command in (
        ["add", "--all"],
        ["add", "--force", "reports/registry"],
        ["commit", "--quiet", "--message", "A student"],
        ["clone", "--quiet", str(mine), str(theirs)],
    ):
        subprocess.run([*git, *command], cwd=mine, check=True)
    shutil.copytree(mine / "raw", theirs / "raw")  # Files of one's own are not in git.
    said["pull"] = run(theirs, "dvc", "pull", **team.client)
    said["repro"] = run(theirs, "dvc", "repro", **team.client)
    said["doctor"] = run(theirs, "flows.doctor", **team.client)
    return Shared(mine, theirs, said)


def test_team_registers_and_promotes_on_its_servers(shared: Shared) -> None:
    assert "Champion: distilbert-student version 1 (distilbert)" in shared.said["demo"]
    assert not (shared.mine / "mlruns").exists()
    assert not (shared.mine / ".prefect" / "prefect.db").exists()


def test_team_member_pulls_what_another_pushed_and_nothing_runs_again(shared: Shared) -> None:
    assert "Running stage" not in shared.said["repro"]
    student = Path("models/students/distilbert/model.safetensors")
    assert sha256_of(shared.theirs / student) == sha256_of(shared.mine / student)


def test_champion_loads_through_the_server_without_a_key_of_its_store(
    shared: Shared, team: Team
) -> None:
    client = {name: value for name, value in team.client.items() if not name.startswith("AWS")}
    *_, answer, has_torch = printed(shared.theirs, PREDICT, **client)
    assert "'token':" in answer
    assert has_torch == "False"


def test_doctor_says_that_every_store_of_the_team_answers(shared: Shared) -> None:
    said = shared.said["doctor"]
    assert "WRONG" not in said
    for answers in ("team (s3://dvc/toy) answers", "MLflow answers at", "Prefect answers at"):
        assert answers in said


def refused(project: Path, *command: str, **variables: str) -> str:
    """Run a command that must be refused in words, without a traceback."""
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project, env=environment(**variables), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1, ran.stdout
    assert "Traceback" not in ran.stdout
    return ran.stdout


def test_wrong_passwords_are_refused_by_every_server(shared: Shared, team: Team) -> None:
    wrong = {
        "PREFECT_API_AUTH_STRING": "admin:wrong",
        "MLFLOW_TRACKING_PASSWORD": "wrong",
        "AWS_SECRET_ACCESS_KEY": "wrong",
    }
    said = refused(shared.theirs, "flows.doctor", **team.client | wrong)
    for refusal in ("team (s3://dvc/toy) refuses", "MLflow at", "Prefect at"):
        assert refusal in said
    assert said.count("refuses the login") == 3
    said = refused(shared.theirs, "stages.registry.promotion", "status", **team.client | wrong)
    assert "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said


def test_who_may_only_read_registers_nothing(shared: Shared, team: Team) -> None:
    reader = {"MLFLOW_TRACKING_USERNAME": "reader", "MLFLOW_TRACKING_PASSWORD": team.reader}
    client = team.client | reader
    assert "version 1" in run(shared.theirs, "stages.registry.promotion", "status", **client)
    words = "--student distilbert --reports reports --export models/export/distilbert --out again"
    said = refused(shared.theirs, "stages.registry.register", *words.split(), **client)
    assert "does not let reader do this" in said
    assert not (shared.theirs / "again").exists()


def test_no_secret_of_the_team_is_written_anywhere(shared: Shared, team: Team) -> None:
    written = "\n".join([*shared.said.values(), team.dump()])
    folders = (shared.mine, shared.theirs, team.logs)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert "distilbert-student" in written
    for name, secret in team.secrets.items():
        if name in ("AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_USERNAME"):
            continue
        # Of user:password the user is no secret.
        plain = secret.removeprefix("admin:")
        for form in (plain, quote(plain, safe="")):
            assert form not in written, name
            assert not [path for path in files if form.encode() in path.read_bytes()], name


def test_flow_asked_to_stop_ends_the_trainer_and_goes_on_later(
    project: Path, prefect: dict[str, str]
) -> None:
    """Last in this file: it makes the project's teacher another one."""
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["teacher"]["adapt"]["num_steps"] = 100
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    flow = subprocess.Popen(
        [sys.executable, "-m", "flows.distillation", "--target", "teacher"],
        cwd=project, env=environment(**prefect), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not list(project.glob(".scratch/teacher-*/step-*")):
        assert flow.poll() is None, flow.communicate()[0]
        assert time.monotonic() < deadline, "the trainer made no checkpoint"
        time.sleep(0.05)
    flow.send_signal(signal.SIGINT)
    output, _ = flow.communicate(timeout=180)
    assert flow.returncode != 0, output
    assert not (project / "models" / "teacher").exists()
    assert list(project.glob(".scratch/teacher-*/step-*"))
    output = run(project, "flows.distillation", "--target", "teacher", **prefect)
    assert "going on from step" in output
    assert (project / "models" / "teacher" / "model.safetensors").is_file()
