"""Delete what only killed or superseded work left: old checkpoints, half-written outputs, logs.

    python -m flows.cleanup [--older-than-days 7] [--dry-run]

Looks at .scratch and at half-written files beside outputs. Nothing that DVC or MLflow knows of is
touched: for those, `dvc gc` and `mlflow gc` (docs/operations.md). Refuses while a stage is at
work.
"""

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from flows import environment
from stages.command import parser_for, run
from stages.errors import DistilleryError, SettingsError
from stages.files import SCRATCH

OUTPUTS = ("data", "models", "reports", "mlruns")


def main(arguments: argparse.Namespace) -> None:
    """Delete what is old enough, or only say what would be."""
    if not arguments.older_than_days >= 0:
        raise SettingsError(f"--older-than-days {arguments.older_than_days}: must be at least 0")
    root = environment.project_root()
    before = time.time() - arguments.older_than_days * 86400
    if busy := _at_work(root):
        raise DistilleryError(f"a stage is at work here (process {busy[0]}); try again after it")
    freed = 0
    for path in leftovers(root):
        if _newest(path) > before:
            continue
        size = sum(file.lstat().st_size for file in _files(path))
        freed += size
        print(f"{size / 2**20:9.1f} MiB  {path.relative_to(root)}")
        if not arguments.dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    verb = "would be freed" if arguments.dry_run else "freed"
    print(f"{freed / 2**20:9.1f} MiB  {verb}")


def leftovers(root: Path) -> Iterator[Path]:
    """Yield everything that no finished work needs."""
    yield from sorted((root / SCRATCH).glob("*"))
    for folder in OUTPUTS:
        # What a restored backup was unpacked into.
        yield from sorted(root.glob(f".{folder}.*.????????"))
        # stages.files.atomic_output works in `.<name>.<random>/<name>` beside the output.
        for path in sorted((root / folder).rglob(".*.????????")):
            if path.is_dir():
                yield path


def _files(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def _newest(path: Path) -> float:
    """Return when anything at or below a path was last written."""
    return max(p.lstat().st_mtime for p in [path, *_files(path)])


def _at_work(root: Path) -> list[int]:
    """Return the processes that run a stage of this project."""
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if "stages." in command and Path(process.cwd()) == root:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--older-than-days", type=float, default=7.0, metavar="DAYS")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    run(main, parser)
