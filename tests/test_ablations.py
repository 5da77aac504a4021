"""A variant's worktree: the project's settings but for the change, and only its work left to do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from toy_project import make_project

from flows.ablations import make_worktree, parse_variant
from stages.errors import SettingsError

DVC_YAML = """
stages:
  corpus:
    cmd: mkdir -p reports; echo 1 > reports/corpus.json; cp seed.txt corpus.txt
    deps: [seed.txt]
    outs:
    - corpus.txt
    - reports/corpus.json:
        cache: false
  train:
    cmd: cp corpus.txt model.txt
    deps: [corpus.txt]
    params: [distill.temperature]
    outs: [model.txt]
"""


def run(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_only_what_the_change_touches_is_left_to_do(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    root = make_project(tmp_path / "project", DVC_YAML)
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
    run(root, *git, "init", "--quiet")
    run(root, sys.executable, "-m", "dvc", "config", "core.no_scm", "false")
    # What the run makes after this commit is not in git: outputs, dvc.lock, reports.
    (root / ".gitignore").write_text("corpus.txt\nmodel.txt\n")
    run(root, *git, "add", "--all")
    run(root, *git, "commit", "--quiet", "--message", "A project")
    run(root, sys.executable, "-m", "dvc", "repro")

    variant = parse_variant(root, "distill.temperature=7")
    make_worktree(root, variant)
    settings = yaml.safe_load((variant.folder / "params.yaml").read_text())
    assert settings["distill"]["temperature"] == 7
    assert (variant.folder / "corpus.txt").read_text() == "seed\n"
    status = json.loads(run(variant.folder, sys.executable, "-m", "dvc", "status", "--json"))
    assert set(status) == {"train"}
    # Once more: the worktree that is there is gone on with, also if its making was cut off.
    for left in (variant.folder / name for name in ("dvc.lock", ".dvc/config.local")):
        left.unlink()
    make_worktree(root, variant)
    status = json.loads(run(variant.folder, sys.executable, "-m", "dvc", "status", "--json"))
    assert set(status) == {"train"}
    with pytest.raises(SettingsError, match=r"distill.temperature = 0: must be greater than 0"):
        make_worktree(root, parse_variant(root, "distill.temperature=0"))
    run(root, *git, "commit", "--quiet", "--allow-empty", "--message", "Other code")
    with pytest.raises(SettingsError, match=r"temperature=7 is of commit \w{8}, the project of"):
        make_worktree(root, variant)
