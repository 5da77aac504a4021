"""The checks before a run, and the clean-up after killed ones."""

import json
import os
import subprocess
import sys
import threading
import time
from argparse import Namespace
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from registry_world import MODEL, upload_of

from flows import cleanup, doctor, stores
from flows.findings import Finding
from stages.errors import DistilleryError
from stages.tracking.store import Store

ROOT = Path(__file__).resolve().parent.parent
WHAT_IS_MADE = ("data/documents/novels", "data/tasks/genre", "models/teacher_source")


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
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Worth a note, and no fault.
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "true")
    doctor.main(Namespace())
    said = capsys.readouterr().out
    assert "WRONG" not in said
    assert "params.yaml is valid: profile offline" in said
    assert "note  telemetry  GX_ANALYTICS_ENABLED=true" in said
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
    assert "instead of 9.9.9; nosuchpackage not installed instead of 1.0. Cure: make -B" in said
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


def test_files_that_are_missing_or_changed_after_they_were_read_are_named(project: Path) -> None:
    own = {"folder": "raw/genre", "texts": ["line"], "labels": ["a", "b"], "metrics": ["mcc"]}
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["corpus"]["sources"] = {"novels": {"kind": "books", "files": ["raw/*.txt"]}}
    settings["evaluation"] |= {"tasks": ["genre"], "own_tasks": {"genre": own}}
    sha256 = settings["teacher"]["source"]["sha256"]
    settings["teacher"]["source"] = {"kind": "folder", "path": "raw/teacher", "sha256": sha256}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    # One that no task names is not read.
    settings["evaluation"]["own_tasks"]["other"] = own | {"folder": "raw/other"}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    assert [finding.said for finding in doctor.check_settings(project)][1:] == [
        "params.yaml: teacher.source.path = raw/teacher: is not a folder",
        "params.yaml: evaluation.own_tasks.genre.folder = raw/genre: is not a folder",
        "params.yaml: corpus.sources.novels.files: no file matches 'raw/*.txt'",
    ]
    plant(project / "raw" / "emma.txt", days_old=3)
    plant(project / "raw" / "genre" / "train.tsv", days_old=3)
    plant(project / "raw" / "teacher" / "tokenizer.json", days_old=3)
    made = [plant(project / name / "x", 1).parent for name in WHAT_IS_MADE]
    for folder in (project / "raw", project / "raw" / "genre", project / "raw" / "teacher"):
        os.utime(folder, (time.time() - 3 * 86400,) * 2)
    assert states(doctor.check_settings(project)) == ["good"]
    os.utime(project / "raw" / "emma.txt")
    os.utime(project / "raw" / "genre")
    os.utime(project / "raw" / "teacher" / "tokenizer.json")
    for folder in made:
        os.utime(folder, (time.time() - 86400,) * 2)
    said = [finding.said for finding in doctor.check_settings(project)]
    assert said[1].startswith("raw/emma.txt changed after documents@novels had read it, and DVC")
    assert said[2].endswith("read it again: dvc repro --force --single-item tasks@genre")
    assert said[3].endswith("read it again: dvc repro --force --single-item fetch_teacher")


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
def test_versions_that_lost_their_files_are_found(
    two_versions: Store, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = doctor.check_mlflow(world)
    assert (found.state, "2 registered versions" in found.said) == ("good", True)
    # One file of many, in the store that the environment names.
    graph = next((world / "mlruns").rglob(upload_of(two_versions, 2))) / "artifacts/artifacts"
    (graph / "model.onnx").rename(graph / "other.onnx")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", two_versions.tracking_uri)
    (found,) = doctor.check_mlflow(world / "reports")
    assert found.state == "wrong"
    assert f"1 registered versions have lost their files, such as {graph}/model.onnx" in found.said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    # Of a version that was deleted nobody misses the files.
    two_versions.client.delete_model_version(MODEL, "1")
    (world / "mlruns/artifacts").rename(world / "mlruns/moved")
    (found,) = doctor.check_mlflow(world)
    assert found.state == "wrong"
    assert "1 registered versions have lost their files" in found.said
    database = world / "mlruns/mlflow.db"
    whole = database.read_bytes()
    database.write_bytes(whole[: len(whole) // 2])
    (found,) = doctor.check_mlflow(world)
    assert found.state == "wrong"
    assert "restore a backup" in found.said


def set_remote(project: Path, name: str, **options: str) -> None:
    """Make the project a DVC workspace with a remote, as `dvc remote add --default` does."""
    lines = [f"[core]\n    no_scm = true\n    remote = {name}", f"['remote \"{name}\"']"]
    lines += [f"    {option} = {value}" for option, value in options.items()]
    (project / ".dvc").mkdir(exist_ok=True)
    (project / ".dvc/config").write_text("\n".join(lines) + "\n")


def test_remote_is_asked_and_its_secrets_are_kept_out_of_git(project: Path) -> None:
    assert states(doctor.check_remote(project)) == ["good"]
    kept = project / "kept"
    set_remote(project, "team", url=str(kept))
    (found,) = doctor.check_remote(project)
    assert found.said == f"team ({kept}) holds nothing yet; a bucket is made before dvc push"
    kept.mkdir()
    (found,) = doctor.check_remote(project)
    assert found.said == f"team ({kept}) answers"
    set_remote(project, "team", url="http://me:hidden@127.0.0.1:9/x", password="hidden")
    told, found = doctor.check_remote(project)
    assert told.said.startswith(".dvc/config, which git keeps, holds password of remote team")
    assert found.state == "wrong"
    assert found.said.startswith("team (http://127.0.0.1:9/x) does not answer")
    assert "hidden" not in told.said + found.said


class Answers(BaseHTTPRequestHandler):
    """An MLflow server that lets everybody in, or nobody but me:secret."""

    asks_for_login = True

    def do_POST(self) -> None:
        known = self.headers["Authorization"] == f"Basic {b64encode(b'me:secret').decode()}"
        self.send_response(200 if known or not self.asks_for_login else 401)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    with HTTPServer(("127.0.0.1", 0), Answers) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.server_port}")
        yield Answers
        listening.shutdown()


def test_server_that_refuses_the_login_is_told_from_one_that_lets_strangers_in(
    project: Path, mlflow: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = doctor.check_mlflow(project)
    assert "refuses the login; set MLFLOW_TRACKING_USERNAME" in found.said
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    assert states(doctor.check_mlflow(project)) == ["good"]
    # The same server, were it on another machine.
    monkeypatch.setattr(stores, "LOOPBACK", ())
    assert states(doctor.check_mlflow(project)) == ["good", "warning"]
    monkeypatch.setattr(mlflow, "asks_for_login", False)
    *_, found = doctor.check_mlflow(project)
    assert found.state == "wrong"
    assert "lets anybody in" in found.said


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
    os.utime(young.parent, (old.stat().st_mtime,) * 2)
    torn = plant(project / "models/students/.a.abcd1234/a", 9)
    unpacked = plant(project / ".mlruns.restored.abcd1234/mlruns.restored/mlflow.db", 9)
    os.utime(unpacked.parent.parent, (unpacked.stat().st_mtime,) * 2)
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
    assert not unpacked.exists()
    assert young.exists()
    assert kept.exists()


def test_nothing_is_deleted_while_a_stage_is_at_work(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(project / ".scratch/distill-a-1234/weights.safetensors", 9)
    busy = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(30)", "stages.distillation.distill"]
    )
    try:
        with pytest.raises(DistilleryError, match=f"process {busy.pid}"):
            cleanup.main(Namespace(older_than_days=7.0, dry_run=False))
        # In another project it does not matter.
        (project / "other").mkdir()
        (project / "other" / "dvc.yaml").touch()
        monkeypatch.chdir(project / "other")
        cleanup.main(Namespace(older_than_days=7.0, dry_run=False))
    finally:
        busy.kill()
        busy.wait()
