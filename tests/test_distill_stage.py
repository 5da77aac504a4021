"""The distill stage as a process: killed, stopped, on two processes, and used by a stranger."""

import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stages.files import read_json, sha256_of, write_json
from tests.conftest import ROOT
from tests.kills import (
    ARGUMENTS,
    DIES_AT_A_WRITE,
    NUM_STEPS,
    STUDENT,
    Trial,
    configure,
    distillable_project,
    workers_of,
)
from tests.living import outliving
from tests.tiny_pipeline import environment, stage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distillable_project(tmp_path_factory.mktemp("origin"))


def copy_of(project: Path, folder: Path) -> Path:
    """Copy a project with its teacher, which lies beside it."""
    return shutil.copytree(project.parent, folder / "copy") / project.name


@pytest.fixture
def project(origin: Path, tmp_path: Path) -> Path:
    return copy_of(origin, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose student one process has trained without a break."""
    project = copy_of(origin, tmp_path_factory.mktemp("undisturbed"))
    distil(project)
    return project


def distil(project: Path) -> str:
    """Run the stage to its end and return the student's sha256."""
    process = stage(project, "stages.distillation.distill", *ARGUMENTS)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return sha256_of(project / STUDENT)


# A short `python -m tests.kills`: each run is killed in two ways before it may end.


def test_killed_at_a_write_and_anywhere_it_ends_with_the_identical_student(
    project: Path, undisturbed: Path
) -> None:
    rng, trial = random.Random(5), Trial(project, 1)
    # The undisturbed one asked its teacher at every step.
    configure(project, launch__teacher_states_gigabytes=0.1)
    dying = trial.start("-c", DIES_AT_A_WRITE, str(rng.randrange(40, 120)))
    assert dying.wait(300) == -signal.SIGKILL
    process = trial.start()
    trial.wait_for(trial.step() + rng.randrange(1, 9), process)
    process.kill()
    process.wait()
    assert trial.finish(trial.start()) == sha256_of(undisturbed / STUDENT)
    assert read_json(project / "reports" / "distilbert.json")["num_steps"] == NUM_STEPS
    assert not list(project.glob(".scratch/distill-*"))


def slurm_of_two_nodes(folder: Path) -> str:
    """A Slurm of two nodes that are both this machine; return the PATH that has it."""
    folder.mkdir()
    for name, program in {
        "scontrol": "echo localhost; echo localhost",
        "srun": '"$@" & first=$!; "$@" || exit 1; wait $first',
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{program}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{environment()['PATH']}"


def test_two_processes_leave_the_identical_student_however_they_start_and_die(
    project: Path, tmp_path: Path
) -> None:
    rng, trial = random.Random(6), Trial(project, 2)
    process = trial.start()
    trial.wait_for(rng.randrange(1, 10), process)
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    assert outliving(worker.pid for worker in workers) == []
    trial.lose_the_end_of_a_file(rng)

    process = trial.start()
    trial.wait_for(rng.randrange(15, 25), process)
    rng.choice(workers_of(process.pid)).kill()
    # torchrun starts both again by itself.
    killed = trial.finish(process)
    report = read_json(project / "reports" / "distilbert.json")
    # The launcher's, torchrun's second, and that one's restart.
    assert report["num_attempts"] == 3
    assert report["device_hours"] > 2 * report["seconds"] / 3600

    configure(project, launch__command=["bash", str(ROOT / "launch" / "slurm.sh")])
    undisturbed = trial.start(
        SLURM_JOB_ID="7", SLURM_JOB_NODELIST="two", SLURM_JOB_NUM_NODES="2",
        RENDEZVOUS_PORT=str(29500 + os.getpid() % 1000), PATH=slurm_of_two_nodes(tmp_path / "bin"),
    )  # fmt: skip
    assert trial.finish(undisturbed) == killed


def test_what_a_restart_cannot_mend_is_not_tried_again(project: Path) -> None:
    trial = Trial(project, 2)
    shard = project / "data" / "shards" / "train" / "shard-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    # As with one process.
    assert trial.start().wait(300) == 1
    # By the first process, which looks for both.
    assert trial.log.read_text().count("shard-00000.arrow is damaged: its sha256 is") == 1
    assert "Traceback" not in trial.log.read_text()


def test_two_processes_asked_to_stop_checkpoint_and_say_so(project: Path) -> None:
    """By SIGTERM, as schedulers do it; the flow sends one process SIGINT (test_pipeline.py)."""
    trial = Trial(project, 2)
    process = trial.start()
    trial.wait_for(3, process)
    # Of torchrun: its workers are in groups of their own.
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75
    said = trial.log.read_text()
    assert "Traceback" not in said
    assert trial.step() == int(re.search(r"stopped after step (\d+) of 40", said)[1])
    assert not (project / STUDENT).parent.exists()


RECIPE = {
    "architecture": {"kind": "bert", "num_layers": 3, "width": 32, "inner": 24, "num_heads": 2},
    "initialise": {"kind": "random"},
    "phases": [
        {
            "name": "general",
            "masking": {"fraction": 0.0},
            "objectives": [
                {"kind": "attention_scores"},
                {"kind": "hidden_states", "projection": "per_kind"},
            ],
        },
        {"name": "relate", "objectives": [{"kind": "relations", "num_heads": 4}]},
        {
            "name": "predict",
            "objectives": [
                {"kind": "soft_targets"},
                {"kind": "mlm"},
                {"kind": "cosine"},
                {"kind": "attention_maps"},
                {"kind": "patience", "weight": 10},
            ],
        },
        {"name": "transfer", "progressive": True, "objectives": [{"kind": "feature_maps"}]},
    ],
    "scale_steps": 0.2,
}


def test_three_processes_share_batches_of_eight_and_train_the_same_student_as_one(
    project: Path,
) -> None:
    def trained(processes: int) -> tuple[list[str], np.ndarray]:
        configure(project, dropout=0.0, processes=processes, students__distilbert=RECIPE)
        distil(project)
        header, *rows = (project / "reports" / "distilbert.csv").read_text().splitlines()
        return header.split(","), np.array(
            [[float(x or "nan") for x in row.split(",")] for row in rows]
        )

    (header, alone), (_, together) = trained(1), trained(3)
    assert header == [
        "step", "loss", "attention_scores", "hidden_states", "relations",
        "ce", "mlm", "cos", "attention_maps", "patience", "feature_maps", "learning_rate",
    ]  # fmt: skip
    assert len(alone) == 3 * 8 + 3 * 2
    np.testing.assert_allclose(together, alone, rtol=2e-3)
    report = read_json(project / "reports" / "distilbert.json")
    assert [phase["num_steps"] for phase in report["phases"]] == [8, 8, 8, 2, 2, 2]
    assert report["num_layers"] == 3
    assert report["weights"].keys() == set(header[2:-1])


def test_student_is_a_stock_model_for_someone_without_this_code(undisturbed: Path) -> None:
    program = (
        "import sys; from transformers import AutoModelForMaskedLM as A, AutoTokenizer as T\n"
        "m = A.from_pretrained('models/students/distilbert')\n"
        "t = T.from_pretrained('models/students/distilbert')\n"
        "y = m(**t('the value of a tensor', return_tensors='pt')).logits\n"
        "assert not [n for n in sys.modules if n.split('.')[0] == 'stages']\n"
        "print(type(m).__name__, y.isfinite().all().item())"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", program],
        cwd=undisturbed,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["DistilBertForMaskedLM", "True"]


def refused(project: Path, patch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture) -> int:
    """Run the stage in this process; return its exit code. It leaves no student."""
    patch.chdir(project)
    patch.setattr(sys, "argv", ["distill", *ARGUMENTS])
    log.clear()
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("stages.distillation.distill", run_name="__main__")
    assert not (project / STUDENT).parent.exists()
    return int(ended.value.code)


def test_bad_input_is_refused_before_training_by_its_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shards = project / "data" / "shards"
    shard = shards / "train" / "shard-00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-40] + bytes([whole[-40] ^ 1]) + whole[-39:])
    assert refused(project, monkeypatch, caplog) == 1
    assert "train/shard-00000.arrow is damaged: its sha256 is" in caplog.text

    manifest = read_json(shards / "manifest.json")
    larger = manifest | {"vocabulary_size": manifest["vocabulary_size"] + 1}
    write_json(shards / "manifest.json", larger)
    # The damage is noticed by the first process of a machine alone: hashing a corpus takes minutes.
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert refused(project, monkeypatch, caplog) == 2
    assert "the shards were made with a vocabulary of" in caplog.text
    monkeypatch.delenv("LOCAL_RANK")
    shard.write_bytes(whole)
    write_json(shards / "manifest.json", manifest)

    (project / "models").mkdir()
    (project / "models" / "students").write_text("a file where a folder should be")
    assert refused(project, monkeypatch, caplog) == 1
    assert "models/students" in caplog.text


def test_full_disk_is_said_and_leaves_no_half_checkpoint(project: Path) -> None:
    process = stage(project, "stages.distillation.distill", *ARGUMENTS, max_file_bytes=20_000)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert not (project / STUDENT).parent.exists()
    assert re.search(r"\.scratch/distill-distilbert-\w+/.*File too large", output), output
    assert not [p for p in project.glob(".scratch/*/*") if p.is_dir()]
    distil(project)
