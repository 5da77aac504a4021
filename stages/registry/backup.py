"""Back up the local MLflow store as one file, and bring it back, here or in another folder.

    python -m stages.registry.backup save backups/monday.tar
    python -m stages.registry.backup restore backups/monday.tar [--replace]

The database is copied with SQLite's own online backup under the store's lock, so a registration or
a promotion that is made meanwhile is in it whole or not at all. The store keeps absolute paths:
restoring into another folder rewrites them. A team's server is backed up with the tools of its
database and of its artifact store.
"""

import argparse
import io
import json
import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from stages.command import log, parser_for, run
from stages.errors import DataError, DistilleryError
from stages.files import atomic_output, file_lock, sha256_of
from stages.tracking.store import local_database

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
MANIFEST = "manifest.json"
# Everywhere the store keeps an absolute path of its artifacts.
PATH_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def save(folder: Path, archive: Path) -> int:
    """Write a store into one archive and return how many files it holds.

    Raises:
        DistilleryError: there is no store, or the archive exists already.
    """
    if not (folder / DATABASE).is_file():
        raise DistilleryError(f"{folder / DATABASE} does not exist: there is nothing to back up")
    if archive.exists():
        raise DistilleryError(f"{archive} exists already; a backup overwrites nothing")
    with file_lock(folder / ".lock"), tempfile.TemporaryDirectory() as scratch:
        database = Path(scratch) / DATABASE
        with (
            closing(sqlite3.connect(folder / DATABASE)) as source,
            closing(sqlite3.connect(database)) as copy,
        ):
            source.backup(copy)
        files = {DATABASE: database} | {
            path.relative_to(folder).as_posix(): path
            for path in sorted((folder / ARTIFACTS).rglob("*"))
            if path.is_file()
        }
        manifest = {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "artifacts": (folder.resolve() / ARTIFACTS).as_uri(),
            "sha256": {name: sha256_of(path) for name, path in files.items()},
        }
        # A link is kept as what it leads to: elsewhere there is nothing for it to lead to.
        with (
            atomic_output(archive) as target,
            tarfile.open(target, "w", dereference=True) as tar,
        ):
            text = json.dumps(manifest, indent=2, sort_keys=True).encode()
            entry = tarfile.TarInfo(MANIFEST)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
            for name, path in tqdm(files.items(), desc="save", unit="file", mininterval=1.0):
                tar.add(path, arcname=name, recursive=False)
    return len(files)


def restore(archive: Path, folder: Path, *, replace: bool = False) -> Path | None:
    """Make a store out of an archive; return where the store that was there before is now.

    Every file is checked against its sha256 before anything is moved into place.

    Raises:
        DataError: the archive is damaged, or holds what a backup does not hold.
        DistilleryError: there is a store already and `replace` was not said, or a process uses it.
    """
    # A link to another disk stays one.
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not replace:
        raise DistilleryError(
            f"{folder} is not empty; --replace puts it aside and takes the backup instead"
        )
    if users := _users(folder / DATABASE):
        raise DistilleryError(
            f"process {', '.join(map(str, users))} has {folder / DATABASE} open and would go on "
            "with it as it is now; stop it first (a page of MLflow, a server of the champion)"
        )
    # Whole, and on the disk, before what is there is touched.
    ready = folder.with_name(f"{folder.name}.restored")
    with atomic_output(ready) as target:
        target.mkdir()
        _extract(archive, target, (folder / ARTIFACTS).as_uri())
    if not folder.exists():
        ready.rename(folder)
        return None
    with file_lock(folder / ".lock"):
        aside = folder.with_name(f"{folder.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        folder.rename(aside)
        ready.rename(folder)
    return aside


def _users(database: Path) -> list[int]:
    """Return the other processes that have a database open."""
    found = []
    for process in psutil.process_iter() if database.exists() else []:
        try:
            opened = [file.path for file in process.open_files()]
        except psutil.Error:
            continue
        if str(database) in opened and process.pid != os.getpid():
            found.append(process.pid)
    return found


def _extract(archive: Path, target: Path, artifacts: str) -> None:
    """Unpack a backup into a folder, as the store whose artifacts have that address."""
    try:
        with tarfile.open(archive, "r:") as tar:
            # The data filter refuses absolute paths, .., links that lead outside, and devices.
            tar.extractall(target, filter="data")
        manifest: dict[str, Any] = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        wanted, old = dict(manifest["sha256"]), str(manifest["artifacts"])
        found = {
            path.relative_to(target).as_posix(): sha256_of(path)
            for path in target.rglob("*")
            if path.is_file() and path != target / MANIFEST
        }
    except (tarfile.TarError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{archive} is not a whole backup: {error}") from error
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise DataError(f"{archive}: {name} is missing, unknown or has another sha256")
    (target / MANIFEST).unlink()
    (target / ARTIFACTS).mkdir(exist_ok=True)
    try:
        _move_paths(target / DATABASE, old, artifacts)
    except sqlite3.Error as error:
        raise DataError(f"{archive}: {DATABASE} is no store of MLflow's: {error}") from error


def _move_paths(database: Path, old: str, new: str) -> None:
    """Rewrite the absolute paths of a store that moved."""
    with closing(sqlite3.connect(database)) as store, store:
        for table, column in PATH_COLUMNS:
            # The names are ours, not the user's. A trailing part is kept: only the root changes.
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )


def main(arguments: argparse.Namespace) -> None:
    """Save or restore."""
    database = local_database()
    if database is None or database.name != DATABASE:
        raise DistilleryError(
            f"MLFLOW_TRACKING_URI names a server, or another file than {DATABASE}: back up its "
            "database and its artifact store"
        )
    folder = database.parent
    if arguments.command == "save":
        num_files = save(folder, arguments.archive)
        log.info("%s holds %s: %d files", arguments.archive, folder, num_files)
        return
    aside = restore(arguments.archive, folder, replace=arguments.replace)
    kept = f"; what was there before is in {aside}" if aside else ""
    log.info("%s is %s again%s", folder, arguments.archive, kept)


def command_line() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = parser_for(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (("save", "write mlruns/ into one file"), ("restore", "bring it back")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("archive", type=Path, metavar="FILE.tar")
        if name == "restore":
            command.add_argument("--replace", action="store_true", help="put what is there aside")
    return parser


if __name__ == "__main__":
    run(main, command_line())
