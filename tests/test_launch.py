"""What starts training on clusters says what torchrun and the stage understand."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig

from stages.command import parser_for
from stages.errors import Interrupted, SettingsError
from stages.params import Launch
from stages.training import processes
from stages.training import torchrun as launcher
from stages.training.processes import EXIT_CODE, joined_processes, start_processes
from tests.conftest import ROOT

SLURM = ROOT / "launch" / "slurm.sh"
KUBERNETES = ROOT / "launch" / "kubernetes.yaml"


def torchrun(words: list[str]) -> Any:
    """Parse a torchrun command line with torchrun's own parser."""
    from torch.distributed.run import get_args_parser

    assert words[:3] == ["python", "-m", "stages.training.torchrun"]
    return get_args_parser().parse_args(words[3:])


def distill_options() -> list[str]:
    """The options of distill@distilbert in the graph."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    words = shlex.split(graph["stages"]["distill"]["do"]["cmd"].replace("${key}", "distilbert"))
    return words[words.index("stages.distillation.distill") + 1 :]


@pytest.mark.parametrize("cores", [None, "64"])
def test_slurm_script_is_bash_and_starts_torchrun_on_every_node(
    tmp_path: Path, cores: str | None
) -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)
    said = tmp_path / "said"
    for name, program in {
        "scontrol": 'test "$*" = "show hostnames node[3-4]"; printf "node3\\nnode4\\n"',
        "srun": f'printf "%s\\n" "$@" > {said}',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nset -e\n{program}\n")
        (tmp_path / name).chmod(0o755)
    subprocess.run(
        [SLURM, "stages.distillation.distill", "--student", "x"],
        check=True,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "SLURM_JOB_NODELIST": "node[3-4]",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_GPUS_ON_NODE": "8",
            "SLURM_JOB_ID": "77",
            **({"SLURM_CPUS_PER_TASK": cores} if cores else {}),
        },
    )
    words = said.read_text().splitlines()
    asked = ["--cpus-per-task", cores] if cores else []
    assert words[: len(asked)] == asked
    run = torchrun(words[len(asked) :])
    assert (run.nnodes, run.nproc_per_node, run.max_restarts) == ("2", "8", 3)
    assert (run.rdzv_backend, run.rdzv_id, run.rdzv_endpoint) == ("c10d", "77", "node3:29500")
    assert run.module
    assert run.training_script == "stages.distillation.distill"
    assert run.training_script_args == ["--student", "x"]


def test_kubernetes_job_is_one_torchrun_a_pod_that_finds_the_first() -> None:
    service, job = yaml.safe_load_all(KUBERNETES.read_text())
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    run = torchrun([*container["command"], *container["args"]])
    pods = job["spec"]["completions"]
    assert job["spec"]["completionMode"] == "Indexed"
    assert run.nnodes == str(pods) == str(job["spec"]["parallelism"])
    assert run.nproc_per_node == str(container["resources"]["limits"]["nvidia.com/gpu"])
    # The first pod of an indexed job is called so inside the service of its subdomain.
    name = job["metadata"]["name"]
    assert run.rdzv_endpoint == f"{name}-0.{pod['subdomain']}:29500"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    # Disks that are mounted are there, and the stage works on one of them.
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert container["workingDir"].startswith(mounts["work"])


def test_kubernetes_job_runs_the_stage_as_the_graph_does() -> None:
    _, job = yaml.safe_load_all(KUBERNETES.read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    parser = parser_for("", ["teacher", "shards", "out", "report", "curve"])
    parser.add_argument("--student")
    parse = parser.parse_args
    assert container["command"][-1] == "stages.distillation.distill"
    assert parse(container["args"]) == parse(distill_options())


def started(monkeypatch: pytest.MonkeyPatch, launch: Launch) -> list[str]:
    """What a stage's process becomes."""
    become: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, words: become.append(words))
    monkeypatch.setattr("os.execvp", lambda _, words: become.append(words))
    monkeypatch.setattr(sys, "argv", ["distill.py", "--student", "x"])
    monkeypatch.setitem(sys.modules, "__main__", __import__("stages.params.__main__").params)
    start_processes(launch)
    return become[0] if become else []


@pytest.mark.parametrize("pool", ["docker", "kubernetes"])
def test_a_work_pool_renders_with_what_its_form_offers(pool: str) -> None:
    template = json.loads((ROOT / "launch" / "pools" / f"{pool}.json").read_text())
    offered = template["variables"]["properties"]
    text = json.dumps(template["job_configuration"])
    assert set(re.findall(r"{{ (\w+) }}", text)) == set(offered)
    for name, field in offered.items():
        text = text.replace(f'"{{{{ {name} }}}}"', json.dumps(field.get("default")))
        text = text.replace(f"{{{{ {name} }}}}", str(field.get("default")))
    rendered = json.loads(text)
    if pool == "kubernetes":
        pod = rendered["job_manifest"]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert container["workingDir"].startswith(mounts["work"])


def test_one_process_starts_nothing_and_several_become_torchrun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert started(monkeypatch, Launch(micro_batch_sequences=1)) == []
    words = started(monkeypatch, Launch(micro_batch_sequences=1, num_processes=4, max_restarts=2))
    run = torchrun(["python", *words[1:]])
    assert run.standalone
    assert (run.nproc_per_node, run.max_restarts) == ("4", 2)
    assert run.training_script_args == ["--student", "x"]


def test_processes_share_the_threads_that_a_run_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.command.num_cores", lambda: 8)
    for given, each in (("", "2"), ("6", "1"), ("64", "2"), ("3", "1")):
        # As the flow gives a stage its share of the machine.
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        started(monkeypatch, Launch(micro_batch_sequences=1, num_processes=4))
        assert os.environ["OMP_NUM_THREADS"] == each


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert started(monkeypatch, Launch(micro_batch_sequences=1, num_processes=2))
    with pytest.raises(SettingsError, match=r"num_processes = 3: .* and 2 can be used here"):
        started(monkeypatch, Launch(micro_batch_sequences=1, num_processes=3))


@pytest.fixture
def joining(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """torchrun's only worker; yields what the launcher is told in."""
    monkeypatch.setattr(processes, "_die_with", lambda launcher: None)
    for name, value in {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0", EXIT_CODE: str(tmp_path / "told"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path / "told"
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(
    ("error", "told", "stops"),
    [
        (SettingsError("such a setting"), "2", True),
        (OSError(28, "No space left on device", "checkpoint"), "1", True),
        (Interrupted("as asked"), "75", False),
        # A process that was lost, as the others see it, and what is nobody's fault here.
        (RuntimeError("Connection closed by peer"), "", False),
        (ConnectionResetError(104, "Connection reset by peer"), "", False),
    ],
)
def test_what_a_restart_cannot_mend_is_told_to_the_launcher(
    monkeypatch: pytest.MonkeyPatch, joining: Path, error: Exception, told: str, stops: bool
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda *given: asked.append(given))
    with pytest.raises(type(error)), joined_processes():
        raise error
    assert joining.read_text() == told
    assert asked == ([(os.getppid(), signal.SIGTERM)] if stops else [])


@pytest.mark.parametrize("error", [Interrupted("as asked"), RuntimeError("connection closed")])
def test_why_all_processes_end_is_said_by_one_of_them(joining: Path, error: Exception) -> None:
    def ends() -> None:
        with joined_processes():
            # As another process of this machine would.
            joining.write_text("75")
            raise error

    with pytest.raises(SystemExit, match="75"):
        ends()


@pytest.fixture
def own_environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


def test_launcher_gives_a_stop_more_time_than_torchrun_does(
    monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    given: list[int] = []
    monkeypatch.setattr(
        "torch.distributed.run.main", lambda: given.append(LaunchConfig(1, 1, 1).shutdown_timeout)
    )
    assert launcher.main() == 0
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "300"
    launcher.main()
    assert given == [110, 300]


@pytest.mark.parametrize(("told", "code"), [("75", 75), ("2", 2), ("", 1)])
def test_launcher_that_is_signalled_ends_as_its_workers_do(
    monkeypatch: pytest.MonkeyPatch, own_environment: None, told: str, code: int
) -> None:
    def signalled() -> None:
        Path(os.environ[EXIT_CODE]).write_text(told)
        raise SignalException("", signal.SIGTERM)

    monkeypatch.setattr("torch.distributed.run.main", signalled)
    assert launcher.main() == code


@pytest.mark.parametrize(
    ("exit_code", "told", "code", "said"),
    [
        (-9, "", 1, "process 1 was ended by SIGKILL, and no restart is left"),
        (1, "", 1, "process 1 failed (1), and no restart is left"),
        (75, "75", 75, ""),
    ],
)
def test_launcher_whose_workers_fail_too_often_says_so_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
    own_environment: None,
    caplog: pytest.LogCaptureFixture,
    exit_code: int,
    told: str,
    code: int,
    said: str,
) -> None:
    def failed() -> None:
        Path(os.environ[EXIT_CODE]).write_text(told)
        failure = ProcessFailure(local_rank=1, pid=1, exitcode=exit_code, error_file="")
        raise ChildFailedError("distill", {1: failure})

    monkeypatch.setattr("torch.distributed.run.main", failed)
    assert launcher.main() == code
    assert said in caplog.text


def test_launch_command_is_given_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sbatch", "--wait", "launch/slurm.sh"]
    words = started(monkeypatch, Launch(micro_batch_sequences=1, command=command))
    assert words == [*command, "stages.params", "--student", "x"]
    monkeypatch.setenv("RANK", "0")
    assert started(monkeypatch, Launch(micro_batch_sequences=1, command=command)) == []


def test_launch_command_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", __import__("stages.params.__main__").params)
    with pytest.raises(SettingsError, match=r"launch.command begins with nosuch: No such file"):
        start_processes(Launch(micro_batch_sequences=1, command=["nosuch", "--wait"]))
