"""Where a student comes from, for its model card: the reports and settings of what made it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.files import read_json
from stages.params import Params, WheelTeacher

LICENCES = {
    "docstrings": "prose of installed Python packages, each under its own licence",
    "wikipedia": "Wikipedia, CC BY-SA 4.0 and GFDL",
    "bookcorpus": "novels of BookCorpus, their authors' rights; for research",
}
"""By kind of source; what is not here is under the licence of its files."""


@dataclass(frozen=True, slots=True)
class Source:
    """One source of training text."""

    name: str
    licence: str
    dataset: str | None
    """Its name on the hub."""


@dataclass(frozen=True, slots=True)
class Story:
    """What made a student."""

    student: dict[str, Any]
    """reports/students/<name>.json"""
    adapted: dict[str, Any]
    """reports/teacher.json"""
    corpus: dict[str, Any]
    """reports/corpus.json"""
    teacher: str
    teacher_on_hub: str | None
    sources: tuple[Source, ...]
    licence: str | None
    language: str | None
    """The one that documents were kept in; None where they are in any."""


def read_story(reports: Path, name: str, settings: Params) -> Story:
    """Read what made a student.

    Raises:
        DataError: a report is absent; the message names it.
    """
    source = settings.teacher.source
    repository: str | None = getattr(source, "repository", None)
    teacher = repository or str(getattr(source, "path", "IB-BERT"))
    if isinstance(source, WheelTeacher):
        teacher = source.requirement.partition("==")[0]
    return Story(
        student=read_json(reports / "students" / f"{name}.json"),
        adapted=read_json(reports / "teacher.json"),
        corpus=read_json(reports / "corpus.json"),
        teacher=teacher,
        teacher_on_hub=repository,
        sources=tuple(
            Source(
                key,
                LICENCES.get(entry.kind, "under the licence of its files"),
                getattr(entry, "dataset", None),
            )
            for key, entry in settings.corpus.sources.items()
        ),
        licence=settings.export.licence,
        language=settings.corpus.curate.language,
    )
