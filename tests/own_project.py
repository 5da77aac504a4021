"""The project of docs/your-own.md at toy size: the page's settings, and files where it has them.

The text is the reference that Python's own help() shows: English prose that is at hand everywhere
and that no change to this project touches.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from pydoc_data.topics import topics

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
    chapters = distinct_topics()
    for name, text in chapters.items():
        (books / f"{name}.txt").write_text(text)
    labels = chosen["evaluation"]["own_tasks"]["novelist"]["labels"]
    write_task(project, chapters.values(), labels)
    return project


def distinct_topics() -> dict[str, str]:
    """Return the topics by name, the longest first, without those that repeat a longer one's lines.

    A row that is held out and trained on as well would stop the project.
    """
    seen: set[str] = set()
    distinct = {}
    for name in sorted(topics, key=lambda name: -len(topics[name])):
        lines = set(long_lines(topics[name]))
        if not lines & seen:
            distinct[name] = topics[name]
            seen |= lines
    return distinct


def long_lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if len(line) > 40]


def write_task(project: Path, texts: Iterable[str], labels: list[str]) -> None:
    """Write passages of as many texts as there are labels: the first for training."""
    task = project / "raw" / "novelist"
    task.mkdir()
    rows: dict[str, list[str]] = {"train": [], "validation": []}
    for label, text in zip(labels, texts, strict=False):
        lines = long_lines(text)
        rows["train"] += [f"{line}\t{label}" for line in lines[:8]]
        rows["validation"] += [f"{line}\t{label}" for line in lines[8:13]]
    for split, lines in rows.items():
        (task / f"{split}.tsv").write_text("\n".join(["passage\tlabel", *lines, ""]))
