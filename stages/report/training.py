"""What the page shows of training: how every loss fell, and what all of it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.report.pictures import Line, line_of, loss_curves
from stages.report.reading import Reports
from stages.report.sections import Model
from stages.report.wording import words

TERMS = {
    "ce": "the teacher\u2019s soft targets, nats \u00d7 T\u00b2",
    "mlm": "masked tokens, nats",
    "cos": "direction of the hidden states, 1 \u2212 cosine",
    "hidden_states": "embeddings and layers",
    "attention_scores": "before the softmax",
    "attention_maps": "after the softmax",
    "feature_maps": "outputs of the layers",
    "relations": "of queries, keys and values",
    "patience": "first token of the layers",
}


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """One loss: the picture, and its lines for the legend."""

    term: str
    meaning: str
    lines: Sequence[Line]
    picture: Markup


@dataclass(frozen=True, slots=True)
class Cost:
    """What one piece of training took; None where it was not measured."""

    what: str
    seconds: float
    share: float
    """Of all the seconds on the page."""
    device: str = ""
    num_steps: int | None = None
    num_tokens: int | None = None
    tokens_per_second: float | None = None
    device_hours: float | None = None
    joules: float | None = None
    num_attempts: int | None = None


def curves(reports: Reports, found: Sequence[Model]) -> list[CurvePanel]:
    """Return a panel per loss with all students, and one of the teacher's own adaptation."""
    students = [model for model in found if not model.is_teacher]
    # The terms that every reader knows come first, then those of other recipes.
    named = [term for m in students for term in reports.students[m.name]["weights"]]
    panels = [
        _curve_panel(
            reports, term, TERMS.get(term, ""), [m for m in students if _learned(reports, m, term)]
        )
        for term in dict.fromkeys([*TERMS, *named])
    ]
    teacher = [model for model in found if model.is_teacher]
    panels.append(_curve_panel(reports, "mlm", "the teacher, adapted before, nats", teacher))
    return [panel for panel in panels if panel.lines]


def _learned(reports: Reports, model: Model, term: str) -> bool:
    """Say whether a loss was part of what the student was trained on: it was not at weight 0."""
    return bool(reports.students[model.name]["weights"].get(term, 0) > 0)


def _curve_panel(reports: Reports, term: str, meaning: str, found: Sequence[Model]) -> CurvePanel:
    lines = []
    for model in found:
        curve = reports.curves.get(model.name)
        values = curve.terms.get(term, []) if curve else []
        # A single point is no curve: a teacher that was taken as it is has step 0 and no more.
        if curve and sum(value is not None for value in values) > 1:
            lines.append(line_of(model.name, model.style, curve.steps, values))
    name = f"curve-{term}" + ("-teacher" if found and found[0].is_teacher else "")
    title = ", ".join(filter(None, (words(term), meaning)))
    picture = loss_curves(name, title, lines) if lines else Markup()
    return CurvePanel(term, meaning, lines, picture)


def costs(reports: Reports) -> list[Cost]:
    """Return what each training took, and what fine-tuning took in all."""
    adapted = {"teacher, adapted to the corpus": reports.teacher}
    trained = (adapted if reports.teacher["num_steps"] else {}) | reports.students
    finetuning = sum(r["seconds"] for tasks in reports.finetune.values() for r in tasks.values())
    total = sum(report["seconds"] for report in trained.values()) + finetuning
    rows = [
        Cost(
            what=name,
            num_steps=report["num_steps"],
            num_tokens=report["num_tokens"],
            tokens_per_second=report["tokens_per_second"],
            device=report["device"],
            seconds=report["seconds"],
            device_hours=report["device_hours"],
            joules=report.get("energy_joules"),
            num_attempts=report.get("num_attempts"),
            share=report["seconds"] / total if total else 0.0,
        )
        for name, report in trained.items()
    ]
    num_runs = sum(len(r["seeds"]) for tasks in reports.finetune.values() for r in tasks.values())
    share = finetuning / total if total else 0.0
    rows.append(Cost(f"fine-tuning, {num_runs} runs", finetuning, share))
    return rows
