"""Backup, restore and lineage on a real store with two versions, one of them champion."""

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from registry_world import MODEL, SHARDS_MD5, STUDENT, answer_of
from store_kills import Killed

from stages.errors import DataError, DistilleryError
from stages.registry import backup, trace
from stages.registry.transitions import promote
from stages.registry.versions import status
from stages.tracking.store import CHAMPION, Store, open_store


@pytest.mark.slow
def test_store_restored_in_another_folder_serves_its_champion(
    two_versions: Store,
    world: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(two_versions, MODEL, 2, reason="for the backup")
    archive = world / "monday.tar"
    num_files = backup.save(world / "mlruns", archive)
    assert num_files > 10
    with pytest.raises(DistilleryError, match="overwrites nothing"):
        backup.save(world / "mlruns", archive)

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    assert backup.restore(archive, elsewhere / "mlruns") is None
    shutil.rmtree(world / "mlruns")
    monkeypatch.chdir(elsewhere)
    store = open_store()
    assert answer_of(f"models:/{MODEL}@{CHAMPION}") == "capital"
    assert status(store, MODEL)[CHAMPION].version == 2
    # New runs go to the new folder as well.
    assert str(elsewhere) in store.client.get_experiment_by_name("distillation").artifact_location


@pytest.mark.slow
def test_lineage_is_followed_both_ways(two_versions: Store) -> None:
    promote(two_versions, MODEL, 1)
    old = trace.origin(two_versions, MODEL, CHAMPION)
    assert (old.version.version, old.version.student, old.aliases) == (1, STUDENT, (CHAMPION,))
    assert old.corpus_digest == SHARDS_MD5
    # dvc.lock has gone on to the second student.
    assert not old.is_current
    assert trace.origin(two_versions, MODEL, "2").is_current
    of_corpus = trace.students_of(two_versions, MODEL, SHARDS_MD5[:8])
    assert [each.version.version for each in of_corpus] == [1, 2]
    assert trace.students_of(two_versions, MODEL, "f" * 8) == []
    # One that somebody made by hand hides no other.
    two_versions.client.create_model_version(MODEL, "file:///nowhere")
    assert trace.origin(two_versions, MODEL, "3").git_commit == "none"
    assert len(trace.students_of(two_versions, MODEL, SHARDS_MD5)) == 2
    with pytest.raises(DistilleryError, match="no alias 'winner'; set are: challenger, champion"):
        trace.origin(two_versions, MODEL, "winner")


def small_store(folder: Path, empty_database: Path) -> Path:
    (folder / "artifacts").mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "artifacts/note.txt").write_text("kept", encoding="utf-8")
    # Not the archive's own, which has the same name.
    (folder / "artifacts/manifest.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_damaged_archive_changes_nothing(tmp_path: Path, empty_database: Path) -> None:
    folder = small_store(tmp_path / "mlruns", empty_database)
    archive = tmp_path / "b.tar"
    backup.save(folder, archive)
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(archive.read_bytes().replace(b"kept", b"lost"))
    with pytest.raises(DataError, match=r"artifacts/note\.txt is missing, unknown or has another"):
        backup.restore(damaged, folder, replace=True)
    shutil.copy(archive, damaged)
    with tarfile.open(damaged, "a") as tar:
        tar.add(folder / "artifacts/note.txt", arcname="artifacts/more.txt")
    with pytest.raises(DataError, match=r"artifacts/more\.txt is missing, unknown or has another"):
        backup.restore(damaged, folder, replace=True)
    damaged.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match="is not a whole backup"):
        backup.restore(damaged, folder, replace=True)
    assert (folder / "artifacts/note.txt").read_text(encoding="utf-8") == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "damaged.tar", "mlruns"]


@pytest.mark.slow
def test_what_was_there_is_put_aside_not_lost(tmp_path: Path, empty_database: Path) -> None:
    disk = small_store(tmp_path / "disk/mlruns", empty_database)
    (tmp_path / "far.txt").write_text("far", encoding="utf-8")
    (disk / "artifacts/link.txt").symlink_to(tmp_path / "far.txt")
    with closing(sqlite3.connect(disk / "mlflow.db")) as store, store:
        place = (disk / "artifacts/0").as_uri()
        store.execute("UPDATE experiments SET artifact_location = ?", (place,))
    # On another disk, as a large store may be.
    folder = tmp_path / "mlruns"
    folder.symlink_to(disk)
    archive = tmp_path / "b.tar"
    backup.save(folder, archive)
    (folder / "artifacts/note.txt").write_text("newer", encoding="utf-8")
    with pytest.raises(DistilleryError, match="--replace puts it aside"):
        backup.restore(archive, folder)
    # Whoever has it open would go on with what is put aside.
    waits = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", waits, str(disk / "mlflow.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as page:
        assert page.stdout is not None
        page.stdout.readline()
        with pytest.raises(DistilleryError, match=rf"process {page.pid} has .*mlflow\.db open"):
            backup.restore(archive, folder, replace=True)
        page.communicate()
    # Killed where there is none.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", once(Path.rename))
        with pytest.raises(Killed):
            backup.restore(archive, folder, replace=True)
    (aside,) = disk.parent.glob("mlruns.2*")
    assert (aside / "artifacts/note.txt").read_text(encoding="utf-8") == "newer"
    assert backup.restore(archive, folder) is None
    assert folder.is_symlink()
    assert sorted(disk.parent.iterdir()) == [disk, aside]
    assert (folder / "artifacts/note.txt").read_text(encoding="utf-8") == "kept"
    assert not (folder / "artifacts/link.txt").is_symlink()
    with closing(sqlite3.connect(disk / "mlflow.db")) as store:
        found = store.execute("SELECT artifact_location FROM experiments").fetchall()
    assert found == [(place,)]


def once(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
    """Let one folder be moved, and die at the next."""
    moved: list[Path] = []

    def move(path: Path, to: Path) -> Path:
        if moved:
            raise Killed
        moved.append(path)
        return rename(path, to)

    return move


@pytest.mark.slow
def test_the_store_that_the_environment_names_is_the_one_that_is_saved(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small_store(tmp_path / "elsewhere", empty_database)
    monkeypatch.chdir(tmp_path)
    given = backup.command_line().parse_args(["save", "b.tar"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    backup.main(given)
    with tarfile.open(tmp_path / "b.tar") as tar:
        assert "artifacts/note.txt" in tar.getnames()
    for other in ("http://127.0.0.1:9", "postgresql://me@127.0.0.1/x", "sqlite:////x/other.db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        with pytest.raises(DistilleryError, match="MLFLOW_TRACKING_URI names a server, or another"):
            backup.main(given)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ([], "is not a whole backup"),
        ({"sha256": {}}, "is not a whole backup"),
        ({"sha256": 5, "artifacts": "file:///x"}, "is not a whole backup"),
        ({"sha256": {}, "artifacts": "file:///x"}, r"mlflow\.db is no store of MLflow's"),
    ],
)
def test_archive_that_is_no_backup_is_refused(manifest: object, said: str, tmp_path: Path) -> None:
    text = json.dumps(manifest).encode()
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        entry = tarfile.TarInfo("manifest.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
    with pytest.raises(DataError, match=said):
        backup.restore(tmp_path / "odd.tar", tmp_path / "store/mlruns")
    assert not list((tmp_path / "store").iterdir())


def test_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "evil.tar"
    (tmp_path / "x").write_text("x", encoding="utf-8")
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "x", arcname="../../escaped")
    with pytest.raises(DataError, match="is not a whole backup"):
        backup.restore(archive, tmp_path / "store" / "mlruns")
    assert not (tmp_path.parent / "escaped").exists()
    assert not (tmp_path / "store" / "mlruns").exists()


def test_nothing_to_back_up_is_said(tmp_path: Path) -> None:
    with pytest.raises(DistilleryError, match="there is nothing to back up"):
        backup.save(tmp_path, tmp_path / "b.tar")
