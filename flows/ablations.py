r"""The same pipeline under several settings, each in a git worktree of its own, and one table.

    python -m flows.ablations --variant distill.temperature=1 \
        --variant "distill.temperature=4 distill.dropout=0.2"

A worktree is a folder beside the project, of the last commit, with the project's params.yaml, its
reports and its DVC cache: what the change does not touch is not done again. Nothing is registered.
The worktrees stay, to be looked at and gone on with; `git worktree remove --force FOLDER` takes
one away.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas import State
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed

from flows import processes
from flows.choices import AS_IT_IS
from flows.environment import project_root
from flows.records import report_outcome, with_server
from flows.results import read_results
from stages import params
from stages.command import parser_for, run
from stages.errors import DistilleryError, SettingsError
from stages.files import SCRATCH, write_text

TARGET = "report"
CACHE = ".dvc/config.local"
"""Where a worktree says whose cache it shares: a worktree without it was killed in the making."""


@dataclass(frozen=True, slots=True)
class Variant:
    """Some settings that differ from the project's, and where they are tried."""

    changes: tuple[tuple[str, Any], ...]
    """Dotted keys of params.yaml, and their values."""
    folder: Path


@flow(name="ablations")
def ablations(variants: list[str], grace_seconds: float = 60.0) -> State[Any]:
    """Distil and evaluate under several settings, one after the other, and compare the results.

    Args:
        variants: One entry per variant: settings that differ from params.yaml, with a blank between
            them, such as `distill.temperature=1 distill.dropout=0.2`.
        grace_seconds: How long a stage that is stopped may take to write its checkpoint.
    """
    try:
        root = project_root()
        chosen = parse_variants(root, variants)
        for variant in chosen:
            make_worktree(root, variant)
    except DistilleryError as error:
        return Failed(message=str(error))
    failed = []
    for text, variant in zip(variants, chosen, strict=True):
        get_run_logger().info("%s: in %s", text, variant.folder)
        if (code := _distil(variant.folder, grace_seconds)) != 0:
            failed.append(f"{text}: exit code {code}; the end of its log:\n{_tail(variant.folder)}")
    rows = table({AS_IT_IS: root} | dict(zip(variants, (v.folder for v in chosen), strict=True)))
    create_table_artifact(key="ablations", table=rows, description="The results of each variant")
    if failed:
        return Failed(message="\n\n".join(failed))
    return Completed(message=f"{len(chosen)} variants; the table is among the artifacts.")


def parse_variants(root: Path, texts: Sequence[str]) -> list[Variant]:
    """Read variants, each with a folder of its own.

    Raises:
        SettingsError: one is not of that form, or two would be tried in one folder.
    """
    chosen = [parse_variant(root, text) for text in texts]
    folders = [variant.folder for variant in chosen]
    for text, folder in zip(texts, folders, strict=True):
        if folders.count(folder) > 1:
            raise SettingsError(f"variant '{text}': another one would be tried in {folder} too")
    return chosen


def parse_variant(root: Path, text: str) -> Variant:
    """Read a variant such as `distill.temperature=1 seed=7`.

    Raises:
        SettingsError: it is not of that form.
    """
    changes = []
    for word in text.split():
        key, equals, value = word.partition("=")
        if not (key and equals and value):
            raise SettingsError(f"variant '{text}': '{word}' must be KEY=VALUE, without blanks")
        try:
            changes.append((key, yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise SettingsError(
                f"variant '{text}': {key} = {value} is not YAML: {error}"
            ) from error
    if not changes:
        raise SettingsError("a variant must change something: KEY=VALUE KEY=VALUE ...")
    name = re.sub(r"[^\w.=-]+", "_", text.strip())
    # A sibling: relative paths in the settings (hub_root) mean there what they mean here.
    return Variant(tuple(changes), root.with_name(f"{root.name}-{name}"))


def make_worktree(root: Path, variant: Variant) -> None:
    """Make a variant's worktree, or bring its settings into the one that is there.

    Raises:
        SettingsError: the settings are wrong, this is no git repository, or the worktree that is
            there is of another commit: its results would be those of other code.
    """
    folder = variant.folder
    settings = yaml.safe_load((root / params.PARAMS).read_text(encoding="utf-8"))
    for key, value in variant.changes:
        _set(settings, key, value)
    if not folder.exists():
        _run(["git", "worktree", "add", "--quiet", "--detach", str(folder), "HEAD"], root)
    theirs, ours = (_run(["git", "rev-parse", "HEAD"], each).strip() for each in (folder, root))
    if theirs != ours:
        raise SettingsError(
            f"{folder} is of commit {theirs[:8]}, the project of {ours[:8]}; go on with "
            f"`git -C {folder} checkout --detach {ours[:8]}`, or take it away with `git worktree "
            f"remove --force {folder}`: what it has trained stays in the cache"
        )
    if not (folder / CACHE).is_file():
        _share_results(root, folder)
    write_text(folder / params.PARAMS, yaml.safe_dump(settings, sort_keys=False))
    params.load(folder / params.PARAMS)


def table(folders: dict[str, Path]) -> list[dict[str, str]]:
    """Return the rows of every project that has results, each with its variant's name."""
    rows = []
    for name, folder in folders.items():
        if (results := read_results(folder)) is not None:
            rows += [
                {"variant": name, **dict(zip(results.header, row, strict=True))}
                for row in results.rows
            ]
    return rows


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; whether it exists is for the settings' own check to say."""
    *sections, last = key.split(".")
    for section in sections:
        inner = settings.setdefault(section, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{key}: {section} is a value and holds no settings")
        settings = inner
    settings[last] = value


def _share_results(root: Path, folder: Path) -> None:
    """Let a fresh worktree start from what the project has: its cache and what is not in git."""
    if (root / "dvc.lock").is_file():
        shutil.copy(root / "dvc.lock", folder / "dvc.lock")
    for path in (root / "reports").glob("**/*.*"):
        if path.is_file() and "data_docs" not in path.parts:
            target = folder / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    dvc = [sys.executable, "-m", "dvc"]
    cache = _run([*dvc, "cache", "dir"], root).strip()
    _run([*dvc, "cache", "dir", "--local", cache], folder)
    # What the cache has not (nothing has run yet, or it was cleaned) is made by the run.
    _run([*dvc, "checkout", "--quiet", "--force", "--allow-missing"], folder)


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SettingsError(f"{' '.join(command)} failed in {folder}:\n{done.stderr.strip()}")
    return done.stdout


def _distil(folder: Path, grace_seconds: float) -> int:
    """Run the variant's own flow, which is a run of its own on Prefect's page."""
    log = _log(folder)
    log.parent.mkdir(exist_ok=True)
    environment = os.environ | {"PREFECT_API_URL": str(PREFECT_API_URL.value())}
    with log.open("ab") as output:
        group = processes.start(
            [sys.executable, "-m", "flows.distillation", "--target", TARGET],
            cwd=folder,
            env=environment,
            stdout=output,
            # The flow in between needs its own time after the stage has had its.
            grace_seconds=grace_seconds + processes.TERM_SECONDS,
        )
    try:
        code = group.command.wait()
    except BaseException:
        processes.stop(group, grace_seconds + processes.TERM_SECONDS)
        raise
    processes.close(group)
    return code


def _log(folder: Path) -> Path:
    return folder / SCRATCH / "ablation.log"


def _tail(folder: Path) -> str:
    return "\n".join(_log(folder).read_text(errors="replace").splitlines()[-15:])


def main(arguments: argparse.Namespace) -> None:
    """Run every variant, with the configured server or with one of its own."""
    # A mistake is told at once, without starting a server for it.
    parse_variants(project_root(), arguments.variant)
    with with_server(project_root()):
        report_outcome(ablations(arguments.variant, return_state=True))


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument(
        "--variant", action="append", required=True, help="KEY=VALUE KEY=VALUE ...; may be repeated"
    )
    run(main, parser)
