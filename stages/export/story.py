"""Where a student comes from, and in words: the parts of its card on training, data and cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.files import read_json
from stages.params import TEACHER, Params

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

    @property
    def is_taught(self) -> bool:
        """Say whether a teacher's outputs are part of any loss."""
        terms = {term for phase in self.student["phases"] for term in phase["weights"]}
        return bool(terms - {"mlm"})


def read_story(reports: Path, name: str, settings: Params) -> Story:
    """Read what made a student.

    Raises:
        DataError: a report is absent; the message names it.
    """
    source = settings.teacher.source
    return Story(
        student=read_json(reports / "students" / f"{name}.json"),
        adapted=read_json(reports / "teacher.json"),
        corpus=read_json(reports / "corpus.json"),
        teacher=source.name,
        teacher_on_hub=getattr(source, "repository", None),
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


def training(story: Story) -> list[str]:
    """Return the card's part on training."""
    report = story.student
    scale = report["recipe"]["scale_steps"]
    scaled = f" (every phase {scale:g} times as long as its recipe says)" if scale != 1 else ""
    trained = "and not trained."
    if report["phases"]:
        # The stretches of a progressive phase, one for each layer, read alike.
        losses = dict.fromkeys(_loss(phase) for phase in report["phases"])
        trained = (
            f"and trained in {report['num_steps']:,} steps{scaled} on {report['num_tokens']:,} "
            f"tokens, {_taught_by(story)}. Loss: {'; then '.join(losses)}."
        )
    heldout, before = report["heldout"], report["initial_heldout"]
    rows = [
        f"| {meaning} | {before[term]:.4f} | {heldout[term]:.4f} |"
        for term, meaning in {
            "kl": "divergence from the teacher, nats per token",
            "mlm": "masked language modelling loss",
            "cos": "cosine distance of the last hidden state",
        }.items()
        if term in heldout and term in before
    ]
    table = ["| on held-out text | before | after |", "|---|---:|---:|", *rows]
    return [
        "## Training",
        f"{_begun(story)}, {trained} {report['num_parameters']:,} parameters.",
        "\n".join(table),
    ]


def _begun(story: Story) -> str:
    report = story.student
    source = _called(report["taught_by"][0], story)
    layers = ", ".join(str(layer) for layer in report["teacher_layers"])
    return {
        "layers": f"Made from layers {layers} of {source} (counted from 0)",
        "student": f"Begun from the student {report['after']}",
        "embeddings": f"Begun with the embeddings and classifier of {source}",
        "random": "Begun with weights at random",
    }[report["initialise"]]


def _taught_by(story: Story) -> str:
    if not story.is_taught:
        return "without a teacher"
    return "taught by " + " and ".join(_called(n, story) for n in story.student["taught_by"])


def _called(name: str, story: Story) -> str:
    """Return what a model is to whoever reads of it elsewhere."""
    if name == TEACHER:
        return story.teacher
    return f"the student {name}" if name == story.student["after"] else f"its teacher {name}"


def _loss(phase: Mapping[str, Any]) -> str:
    weights = ", ".join(f"{term} {weight:g}" for term, weight in phase["weights"].items())
    if "ce" not in phase["weights"]:
        return weights
    return f"{weights} (ce at temperature {phase['temperature']:g} on {phase['positions']} tokens)"


def data(story: Story) -> list[str]:
    """Return the card's part on the text that was learned from."""
    counted = story.corpus
    num_dropped = sum(counted["dropped"].values())
    dropped = (
        f"{num_dropped:,} of the documents read were dropped, each with a reason."
        if num_dropped
        else "No document was dropped."
    )
    sources = [f"- {source.name}: {source.licence}" for source in story.sources]
    return [
        "## Data",
        f"{counted['num_documents']['train']:,} documents, "
        f"{counted['num_characters']['train']:,} characters of training text; "
        f"{counted['num_documents']['heldout']:,} documents are held out. {dropped} "
        "The text is not part of this model's files:",
        "\n".join(sources),
    ]


def cost(story: Story) -> list[str]:
    """Return the card's part on what training took."""
    rows = [
        _cost_row(what, report)
        for what, report in {"teacher, adapted": story.adapted, "student": story.student}.items()
        if report["num_steps"]
    ]
    return [
        "## Cost",
        "\n".join(["| training | device | device-hours | energy |", "|---|---|---:|---:|", *rows]),
    ]


def _cost_row(what: str, report: Mapping[str, Any]) -> str:
    joules = report.get("energy_joules")
    energy = "not measured" if joules is None else f"{joules / 3.6e6:.3g} kWh"
    return f"| {what} | {report['device']} | {report['device_hours']:.3g} | {energy} |"
