"""A small, real DVC project for the tests of flows."""

import shutil
import textwrap
from pathlib import Path

from dvc.repo import Repo

ROOT = Path(__file__).resolve().parent.parent


def make_project(root: Path, dvc_yaml: str) -> Path:
    """Make a DVC project with valid settings and one input, seed.txt."""
    Repo.init(str(root), no_scm=True).close()
    shutil.copytree(ROOT / "profiles", root / "profiles")
    shutil.copy(ROOT / "profiles" / "offline.yaml", root / "params.yaml")
    (root / "seed.txt").write_text("seed\n", encoding="utf-8")
    (root / "dvc.yaml").write_text(textwrap.dedent(dvc_yaml), encoding="utf-8")
    return root
