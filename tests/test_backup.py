"""Backup, restore and lineage on a real store with two versions, one of them champion."""

import shutil
import tarfile
from pathlib import Path

import pytest
from registry_world import MODEL, SHARDS_MD5, STUDENT, answer_of

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
    damaged.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(DataError, match="is not a whole backup"):
        backup.restore(damaged, folder, replace=True)
    assert (folder / "artifacts/note.txt").read_text(encoding="utf-8") == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "damaged.tar", "mlruns"]


@pytest.mark.slow
def test_what_was_there_is_put_aside_not_lost(tmp_path: Path, empty_database: Path) -> None:
    folder = small_store(tmp_path / "mlruns", empty_database)
    archive = tmp_path / "b.tar"
    backup.save(folder, archive)
    (folder / "artifacts/note.txt").write_text("newer", encoding="utf-8")
    with pytest.raises(DistilleryError, match="--replace puts it aside"):
        backup.restore(archive, folder)
    aside = backup.restore(archive, folder, replace=True)
    assert aside is not None
    assert (aside / "artifacts/note.txt").read_text(encoding="utf-8") == "newer"
    assert (folder / "artifacts/note.txt").read_text(encoding="utf-8") == "kept"


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
