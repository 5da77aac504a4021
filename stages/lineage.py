"""Where a student comes from: one hash over dvc.lock, the corpus digest, the git commit.

Reads dvc.lock with yaml only (no DVC import), finds the stage that makes a student and everything
upstream of it by following outputs to the dependencies they satisfy, and hashes what decides the
student: commands, dependencies, parameters, and outputs under data/ and models/. Reports hold
measured seconds, so their contents are left out; the stages that write them are followed all the
same.
"""

import re
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from stages.errors import DataError
from stages.files import fingerprint

LOCK = Path("dvc.lock")
CORPUS = "data/shards"
DOCUMENTS = "data/documents"
STUDENTS = "models/students"
DVC_HASH = re.compile(r"^[0-9a-f]{32}(\.dir)?$")
# DVC rewrites dvc.lock in place, so another stage's entry may be half written when we read it.
READ_ATTEMPTS = 20
SECONDS_BETWEEN_READS = 0.25


@dataclass(frozen=True, slots=True)
class Lineage:
    """What made a student, as far as DVC knows."""

    student: str
    lineage: str
    """16 hex digits over the upstream entries of dvc.lock: same digits, same student."""
    corpus_digest: str
    """DVC's hash of data/shards: 36 characters, which is MLflow's limit for a dataset digest."""
    stages: tuple[str, ...]
    """Names of the upstream stages, sorted."""
    params: dict[str, Any]
    """What these stages took from params.yaml: key -> value, where a key may name a section."""


@dataclass(frozen=True, slots=True)
class GitState:
    """The commit of the working tree and whether tracked files differ from it."""

    commit: str | None
    is_dirty: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """What a page or a record says of where its numbers are from."""

    git: GitState
    lineages: dict[str, Lineage]
    """By student; those that DVC has not recorded are not in it."""


def origin_of(students: Iterable[str], path: Path = LOCK) -> Origin:
    """Return the commit and the lineages of the students that dvc.lock knows."""
    found = {}
    for student in students:
        try:
            found[student] = trace(_read(path), student, path)
        except DataError:
            # A stage that was run by hand is in no lock file.
            continue
    return Origin(git_state(), found)


def lineage_of(student: str, path: Path = LOCK) -> Lineage:
    """Read dvc.lock and return the lineage of a student.

    Raises:
        DataError: dvc.lock is absent, or does not hold every stage that leads to the student.
    """
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return trace(_read(path), student, path)
        except DataError:
            if attempt == READ_ATTEMPTS or not path.is_file():
                raise
            time.sleep(SECONDS_BETWEEN_READS)
    raise AssertionError("unreachable")


def trace(stages: dict[str, Any], student: str, path: Path = LOCK) -> Lineage:
    """Return the lineage of a student from the `stages` mapping of dvc.lock.

    Raises:
        DataError: an entry is missing or incomplete.
    """
    stages = _in_force(stages)
    target = next(
        (name for name in (f"distill@{student}", f"distill_successor@{student}") if name in stages),
        f"distill@{student}",
    )
    if target not in stages:
        raise DataError(f"{path} has no entry {target}; run: dvc repro {target}")
    # Outputs come last in an entry: one that has them was not cut short.
    _hash_of(stages[target], "outs", f"{STUDENTS}/{student}", path)
    upstream = _upstream(stages, target, path)
    entries = [_deciding_parts(name, stages[name], path) for name in upstream]
    corpus = _hash_of(stages[target], "deps", CORPUS, path)
    used = {
        key: value
        for name in upstream
        for settings in stages[name].get("params", {}).values()
        for key, value in settings.items()
    }
    return Lineage(student, fingerprint(entries), corpus, tuple(upstream), used)


def git_state(root: Path = Path()) -> GitState:
    """Return the commit and whether tracked files are changed; (None, False) without git."""
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return GitState(None, is_dirty=False)
    return GitState(commit, is_dirty=bool(changes.strip()))


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; run dvc repro first") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not valid YAML ({error}); restore it from git") from error
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        raise DataError(f"{path} records no stages; run dvc repro first")
    return stages


def _in_force(stages: dict[str, Any]) -> dict[str, Any]:
    """Leave out sources that the corpus is not made of: dvc.lock keeps stages that were removed."""
    taken = stages.get("curate", {}).get("params", {}).get("params.yaml", {}).get("corpus.sources")
    removed = {
        name
        for name in stages
        if name.startswith("documents@") and taken is not None and name[10:] not in taken
    }
    return {name: entry for name, entry in stages.items() if name not in removed}


def _upstream(stages: dict[str, Any], target: str, path: Path) -> list[str]:
    """Return the names of a stage and of all stages it depends on, sorted."""
    found: set[str] = set()
    waiting = [target]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for item in _items(stages[name], "deps"):
            makers = [
                other
                for other, entry in stages.items()
                if any(_overlap(out["path"], item["path"]) for out in _items(entry, "outs"))
            ]
            if not makers and _is_tracked(item["path"]):
                raise DataError(
                    f"{path}: {name} depends on {item['path']}, which no recorded stage makes; "
                    f"run: dvc repro {target}"
                )
            waiting.extend(makers)
    return sorted(found)


def _deciding_parts(name: str, entry: dict[str, Any], path: Path) -> list[Any]:
    """Return the parts of an entry that decide what it makes, as plain JSON values."""
    # What lies in the folder of documents is said by the sources' own entries, and beside them may
    # be what earlier settings left.
    deps = [
        [i["path"], _hash(i, name, path)]
        for i in _items(entry, "deps")
        if not _is_report(i) and i["path"] != DOCUMENTS
    ]
    outs = [
        [i["path"], _hash(i, name, path)] for i in _items(entry, "outs") if _is_tracked(i["path"])
    ]
    return [name, entry.get("cmd"), sorted(deps), entry.get("params", {}), sorted(outs)]


def _items(entry: Any, kind: str) -> list[dict[str, Any]]:
    items = entry.get(kind) if isinstance(entry, dict) else None
    return [item for item in items or [] if isinstance(item, dict) and "path" in item]


def _hash_of(entry: dict[str, Any], kind: str, wanted: str, path: Path) -> str:
    for item in _items(entry, kind):
        if item["path"] == wanted:
            return _hash(item, wanted, path)
    raise DataError(f"{path}: {entry.get('cmd')} does not list {wanted} among its {kind}")


def _hash(item: dict[str, Any], name: str, path: Path) -> str:
    value = str(item.get("md5"))
    if not DVC_HASH.match(value):
        raise DataError(f"{path}: {name}: {item['path']} has no whole md5; run: dvc repro {name}")
    return value


def _overlap(one: str, other: str) -> bool:
    """Say whether two paths are the same or one holds the other."""
    a, b = PurePosixPath(one), PurePosixPath(other)
    return a == b or a in b.parents or b in a.parents


def _is_tracked(path: str) -> bool:
    return PurePosixPath(path).parts[:1] in {("data",), ("models",)}


def _is_report(item: dict[str, Any]) -> bool:
    return PurePosixPath(item["path"]).parts[:1] == ("reports",)
