"""The checks before a run, and the clean-up after killed ones."""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from flows import cleanup, doctor
from flows.doctor import Finding
from stages.errors import DistilleryError

ROOT = Path(__file__).resolve().parent.parent
WHAT_IS_MADE = ("documents/novels", "tasks/genre")


def states(findings: object) -> list[str]:
    return [finding.state for finding in findings]  # type: ignore[attr-defined]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("requirements.lock", "params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    return tmp_path


def test_healthy_project_has_nothing_wrong(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor.main(Namespace())
    said = capsys.readouterr().out
    assert "WRONG" not in said
    assert "params.yaml is valid: profile offline" in said
    assert "nothing has run here yet" in said


def test_every_finding_is_said_before_it_fails(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "requirements.lock").write_text("torch==9.9.9\nnosuchpackage==1.0\n")
    (project / "params.yaml").write_text("profile: offline\nlaunch: {gpus: 3}\n")
    (project / "dvc.lock").write_text("stages: {a: [")
    monkeypatch.setenv("PREFECT_API_URL", "http://somebody:secret@127.0.0.1:9/api")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "0")
    with pytest.raises(DistilleryError, match="must be mended first"):
        doctor.main(Namespace())
    said = capsys.readouterr().out
    assert "instead of 9.9.9; nosuchpackage not installed instead of 1.0" in said
    assert "params.yaml: launch.gpus = 3: no such setting" in said
    assert "dvc.lock is damaged" in said
    assert "Prefect does not answer at http://127.0.0.1:9/api" in said
    assert "secret" not in said
    assert "DVC_NO_ANALYTICS=0" in said


def test_a_check_that_breaks_does_not_hide_the_others(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> list[Finding]:
        raise ZeroDivisionError

    monkeypatch.setitem(doctor.CHECKS, "python", broken)  # type: ignore[arg-type]
    with pytest.raises(DistilleryError, match="1 of the findings"):
        doctor.main(Namespace())
    said = capsys.readouterr().out
    assert "the check itself failed: ZeroDivisionError()" in said
    assert "params.yaml is valid" in said


def test_files_that_changed_after_they_were_read_are_named(project: Path) -> None:
    own = {"folder": "raw/genre", "texts": ["line"], "labels": ["a", "b"], "metrics": ["mcc"]}
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["corpus"]["sources"] = {"novels": {"kind": "books", "files": ["raw/*.txt"]}}
    settings["evaluation"] |= {"tasks": ["genre"], "own_tasks": {"genre": own}}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    plant(project / "raw" / "emma.txt", days_old=3)
    plant(project / "raw" / "genre" / "train.tsv", days_old=3)
    made = [plant(project / "data" / name / "x", 1).parent for name in WHAT_IS_MADE]
    for folder in (project / "raw", project / "raw" / "genre"):
        os.utime(folder, (time.time() - 3 * 86400,) * 2)
    assert states(doctor.check_settings(project)) == ["good"]
    os.utime(project / "raw" / "emma.txt")
    os.utime(project / "raw" / "genre")
    for folder in made:
        os.utime(folder, (time.time() - 86400,) * 2)
    said = [finding.said for finding in doctor.check_settings(project)]
    assert said[1].startswith("raw/emma.txt changed after documents@novels had read it, and DVC")
    assert said[2].endswith("read it again: dvc repro --force --single-item tasks@genre")


def test_locks_of_a_dead_dvc_are_told_from_those_of_a_living_one(project: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held = project / ".dvc/tmp/rwlock"
    held.parent.mkdir(parents=True)
    held.write_text(json.dumps({"out": {"write": {"pid": dead.pid, "cmd": "dvc repro"}}}))
    assert "left its locks" in next(doctor.check_dvc(project)).said
    held.write_text(json.dumps({"out": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}}}))
    assert states(doctor.check_dvc(project)) == ["warning", "good"]


@pytest.mark.slow
def test_versions_that_lost_their_files_are_found(two_versions: object, world: Path) -> None:
    assert states(doctor.check_store(world)) == ["good"]
    (world / "mlruns/artifacts").rename(world / "mlruns/moved")
    (found,) = doctor.check_store(world)
    assert found.state == "wrong"
    assert "2 registered versions have lost their files" in found.said
    database = world / "mlruns/mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    (found,) = doctor.check_store(world)
    assert found.state == "wrong"
    assert "restore a backup" in found.said


# --------------------------------------------------------------------------------------- cleanup


def plant(path: Path, days_old: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x" * 1024, encoding="utf-8")
    then = time.time() - days_old * 86400
    os.utime(path, (then, then))
    os.utime(path.parent, (then, then))
    return path


def test_only_what_is_old_and_unfinished_is_deleted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = plant(project / ".scratch/distill-a-1234/step-00000001/weights.safetensors", 9)
    os.utime(old.parent.parent, (old.stat().st_mtime,) * 2)
    young = plant(project / ".scratch/distill-a-5678/weights.safetensors", 1)
    torn = plant(project / "models/students/.a.abcd1234/a", 9)
    kept = plant(project / "models/students/a/model.safetensors", 99)
    cleanup.main(Namespace(older_than_days=7.0, dry_run=True))
    assert "would be freed" in capsys.readouterr().out
    assert old.exists()
    cleanup.main(Namespace(older_than_days=7.0, dry_run=False))
    said = capsys.readouterr().out
    assert ".scratch/distill-a-1234" in said
    assert "models/students/.a.abcd1234" in said
    assert not old.exists()
    assert not torn.exists()
    assert young.exists()
    assert kept.exists()


def test_nothing_is_deleted_while_a_stage_is_at_work(project: Path) -> None:
    plant(project / ".scratch/distill-a-1234/weights.safetensors", 9)
    busy = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(30)", "stages.distillation.distill"]
    )
    try:
        with pytest.raises(DistilleryError, match=f"process {busy.pid}"):
            cleanup.main(Namespace(older_than_days=7.0, dry_run=False))
    finally:
        busy.kill()
        busy.wait()
