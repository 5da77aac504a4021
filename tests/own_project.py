"""The project of docs/your-own.md at toy size: the page's settings, and files where it has them.

The text is this project's own documentation: real English prose that is always at hand.
"""

import shutil
from pathlib import Path

import yaml

from stages.files import sha256_of
from tests.conftest import ROOT
from tests.docs_text import blocks, merged
from tests.tiny_pipeline import make_project, settings, write_params

YOUR_OWN = ROOT / "docs" / "your-own.md"


def make_own_project(folder: Path) -> Path:
    """Make a project with the settings that the page tells to write; nothing has run in it."""
    project = make_project(folder)
    teacher = project / "raw" / "teacher"
    shutil.copytree(folder / "teacher", teacher)
    sha256 = sha256_of(teacher / "model.safetensors")
    chosen = settings(teacher, sha256)
    for example in blocks(YOUR_OWN, "yaml"):
        chosen = merged(chosen, yaml.safe_load(example))
    chosen["teacher"]["source"]["sha256"] = {"model.safetensors": sha256}
    # The page's other task needs more text than this.
    chosen["evaluation"]["tasks"] = ["novelist"]
    write_params(project, chosen)
    books = project / "raw" / "books"
    books.mkdir()
    pages = sorted((ROOT / "docs").glob("*.md"))
    for page in pages:
        shutil.copy(page, books / f"{page.stem}.txt")
    write_task(project, pages, chosen["evaluation"]["own_tasks"]["novelist"]["labels"])
    return project


def write_task(project: Path, pages: list[Path], labels: list[str]) -> None:
    """Write passages of as many pages as there are labels: the first for training."""
    task = project / "raw" / "novelist"
    task.mkdir()
    rows: dict[str, list[str]] = {"train": [], "validation": []}
    for label, page in zip(labels, pages, strict=False):
        lines = [
            line.replace("\t", " ") for line in page.read_text().splitlines() if len(line) > 60
        ]
        rows["train"] += [f"{line}\t{label}" for line in lines[:8]]
        rows["validation"] += [f"{line}\t{label}" for line in lines[8:13]]
    for split, lines in rows.items():
        (task / f"{split}.tsv").write_text("\n".join(["passage\tlabel", *lines, ""]))
