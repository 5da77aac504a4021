"""Files that are whole or absent: atomic writes, checksums, fingerprints, scratch folders."""

import errno
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import DataError

SCRATCH = Path(".scratch")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sha256_of_tree(folder: Path, leave_out: str | None = None) -> str:
    """Return one hex sha256 over the names and contents of every file below a folder but one."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != leave_out):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()


def fingerprint(*parts: Any) -> str:
    """Return 16 hex digits that stand for JSON-like values (settings, checksums, names)."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def scratch(stage: str, *parts: Any) -> Path:
    """Return the folder where an interruptible stage keeps its unfinished work.

    It is keyed by whatever decides the result, so that a rerun of the same work finds its
    checkpoints and a rerun of different work never does.
    """
    folder = SCRATCH / f"{stage}-{fingerprint(*parts)}"
    make_lasting(folder)
    return folder


def discard(folder: Path) -> None:
    """Remove a folder whose work is done; a kill meanwhile leaves nothing half under its name."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def make_lasting(folder: Path) -> None:
    """Make a folder, with its parents, that is still there after a power cut."""
    if not folder.is_dir():
        make_lasting(folder.parent)
        folder.mkdir(exist_ok=True)
        _flush_entry(folder.parent)


@contextmanager
def atomic_output(path: Path) -> Iterator[Path]:
    """Yield a path beside `path`; what is written there becomes `path` only if the block succeeds.

    The block may make a file or a folder. An existing `path` is replaced. On failure nothing of
    the unfinished work is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _holder(path) as holder:
        target = holder / path.name
        try:
            yield target
        except OSError as error:
            # A write that fails does not say to what file.
            if error.filename is None and error.errno in DISK_ERRORS:
                error.filename = str(target)
            raise
        _flush(target)
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced in one step: put the old one aside first.
            path.rename(holder / "replaced")
        target.replace(path)
        _flush_entry(path.parent)


@contextmanager
def _holder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, gone afterwards, and those of killed writers with it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.is_dir() and (descriptor := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    # Held as long as its writer lives, so that it tells what is left over from what is in use.
    descriptor = _locked(holder)
    try:
        yield holder
    finally:
        shutil.rmtree(holder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """Return a descriptor that locks a folder, or None where another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_output(path) as target:
        target.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, a final newline; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is absent or not JSON; the message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; dvc repro runs the stage that makes it") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); delete it and run dvc repro") from error


@contextmanager
def file_lock(path: Path, patience_seconds: float | None = None) -> Iterator[None]:
    """Hold a lock that the system frees when its process dies, however it dies.

    Who may only read the file, because another user made it, may lock it as well.

    Raises:
        BlockingIOError: another process held it for all of `patience_seconds` (None: wait on).
    """
    try:
        opened = path.open("a")
    except PermissionError:
        opened = path.open()
    with opened as file:
        deadline = None if patience_seconds is None else time.monotonic() + patience_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if deadline else 0))
                break
            except BlockingIOError:
                if deadline is None or time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)
        yield


def _flush(target: Path) -> None:
    """Push a file, or a folder with all it holds, to the disk before it is renamed into place."""
    below = sorted(target.rglob("*"), reverse=True) if target.is_dir() else []
    for path in [*below, target]:
        if path.is_dir():
            # What a folder lists is data of its own: a whole file that nothing names is lost.
            _flush_entry(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _flush_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
