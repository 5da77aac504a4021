"""Follow lineage both ways: a version back to its commit and corpus, a corpus to its students.

    python -m stages.registry.trace version champion        (or challenger, previous, a number)
    python -m stages.registry.trace corpus 0123...ef.dir    (a prefix is enough; default: this one)

`--json` answers on standard output.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DistilleryError
from stages.lineage import CORPUS, lineage_of, origin_of
from stages.registry.versions import Version, aliases, get_version, is_registered
from stages.tracking.store import Store, open_store


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from."""

    version: Version
    aliases: tuple[str, ...]
    git_commit: str
    git_dirty: bool
    """Tracked files differed from the commit when the version was registered."""
    commit_is_here: bool
    """This repository holds the commit."""
    corpus_digest: str
    """DVC's hash of data/shards."""
    model_sha256: str
    """Of the student's model.safetensors."""
    profile: str
    is_current: bool
    """The dvc.lock of this workspace leads to the same student."""


def origin(store: Store, model: str, named: str) -> Origin:
    """Return where a version comes from.

    Args:
        store: from `open_store()`.
        model: the registered model.
        named: an alias or a number.

    Raises:
        DistilleryError: there is no such version.
    """
    if not named.isdecimal() and named not in aliases(store, model):
        known = ", ".join(sorted(aliases(store, model))) or "none"
        raise DistilleryError(f"{model} has no alias '{named}'; set are: {known}")
    number = int(named) if named.isdecimal() else aliases(store, model)[named]
    return _origin(store, get_version(store, model, number))


def students_of(store: Store, model: str, corpus: str) -> list[Origin]:
    """Return every version whose corpus digest begins with `corpus`, oldest first."""
    if not is_registered(store, model):
        return []
    found = store.client.search_model_versions(f"name = '{model}'")
    origins = [_origin(store, get_version(store, model, int(entry.version))) for entry in found]
    mine = [each for each in origins if each.corpus_digest.startswith(corpus)]
    return sorted(mine, key=lambda each: each.version.version)


def _origin(store: Store, version: Version) -> Origin:
    tags = _tags_of(store, version.run_id)
    commit = tags.get("git_commit", "none")
    named = aliases(store, version.model)
    return Origin(
        version=version,
        aliases=tuple(sorted(name for name, number in named.items() if number == version.version)),
        git_commit=commit,
        git_dirty=tags.get("git_dirty") == "true",
        commit_is_here=_is_here(commit),
        corpus_digest=tags.get("corpus_digest", ""),
        model_sha256=tags.get("model_sha256", ""),
        profile=tags.get("profile", ""),
        is_current=_is_current(version),
    )


def _tags_of(store: Store, run_id: str) -> dict[str, str]:
    """Return a run's tags, none where a version was made by hand or its run deleted for good."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(store.client.get_run(run_id).data.tags)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return {}


def _is_here(commit: str) -> bool:
    command = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _is_current(version: Version) -> bool:
    # Asked once: lineage_of waits for a student that a stage may be about to record.
    here = origin_of([version.student]).lineages.get(version.student)
    return here is not None and here.lineage == version.lineage


def main(arguments: argparse.Namespace) -> None:
    """Answer one question."""
    settings = params.load()
    model = settings.registry.model_name
    store = open_store()
    answer: Any
    if arguments.command == "version":
        found = [origin(store, model, arguments.version)]
        answer = asdict(found[0])
        lines = list(_lines(found[0]))
    else:
        # Every student of this workspace has the same corpus.
        corpus = arguments.digest or lineage_of(settings.export.students[0]).corpus_digest
        found = students_of(store, model, corpus)
        answer = [asdict(each) for each in found]
        lines = [_line(each) for each in found] or [f"no version of {model} has corpus {corpus}"]
    if arguments.json:
        sys.stdout.write(json.dumps(answer, indent=2, sort_keys=True) + "\n")
        return
    for line in lines:
        log.info("%s", line)


def _lines(found: Origin) -> Iterator[str]:
    version = found.version
    names = f" ({', '.join(found.aliases)})" if found.aliases else ""
    yield f"{version.model} version {version.version}{names}: student {version.student}"
    dirty = ", with changes on top" if found.git_dirty else ""
    here = "" if found.commit_is_here else ", which this repository does not hold"
    yield f"commit    {found.git_commit}{dirty}{here}"
    same = "what dvc.lock records here" if found.is_current else "not what dvc.lock records here"
    yield f"lineage   {version.lineage}, {same}"
    yield f"corpus    {found.corpus_digest} ({CORPUS})"
    yield f"weights   sha256 {found.model_sha256}"
    yield f"profile   {found.profile}"
    yield f"run       {version.run_id}, gate {version.gate}"


def _line(found: Origin) -> str:
    version = found.version
    return (
        f"version {version.version:<4} {version.student:<16} commit {found.git_commit[:8]:<9} "
        f"lineage {version.lineage}  gate {version.gate}  {' '.join(found.aliases)}"
    ).rstrip()


def command_line() -> argparse.ArgumentParser:
    """Return the parser of this command."""
    parser = parser_for(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    version = commands.add_parser("version", help="a version back to its commit, corpus and run")
    version.add_argument("version", help="champion, challenger, previous, or a number")
    corpus = commands.add_parser("corpus", help="every version made from a corpus")
    corpus.add_argument("digest", nargs="?", help="DVC's hash of data/shards (default: this one)")
    for command in (version, corpus):
        command.add_argument("--json", action="store_true", help="answer on standard output")
    return parser


if __name__ == "__main__":
    run(main, command_line())
