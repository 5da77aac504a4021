"""What the sections of the page show: rows, bars and pictures made from the reports.

Pure functions; the template only lays out what they return.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stages.params import TEACHER
from stages.report.pictures import Lane, seed_dots
from stages.report.published import COLUMNS, ROWS, Published
from stages.report.reading import Json, Reports, smallest_batch
from stages.report.scatter import Point, score_against
from stages.report.summary import retention
from stages.report.wording import count, fixed, percent

NUM_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Model:
    """A model as the page names and colours it."""

    name: str
    style: str
    is_teacher: bool
    is_baseline: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """One model's part of a comparison: a length between 0 and 1, and the number it stands for."""

    label: str
    style: str
    length: float
    text: str


def models(reports: Reports, summary: Json) -> list[Model]:
    """Return every model, the teacher first, each with its own colour."""
    found = []
    num_students = 0
    for name in reports.models:
        if name == TEACHER:
            style = "teacher"
        elif name == summary["baseline"]:
            style = "baseline"
        else:
            style = f"student{num_students % NUM_COLOURS}"
            num_students += 1
        found.append(Model(name, style, style == "teacher", style == "baseline"))
    return found


def hero(found: Sequence[Model], reports: Reports) -> Model:
    """Return the student the page is about: the first that is up for promotion."""
    students = [model for model in found if not model.is_teacher]
    ranked = sorted(students, key=lambda m: (m.name not in reports.gates, m.is_baseline))
    return ranked[0]


def comparisons(
    reports: Reports, summary: Json, found: Sequence[Model], student: Model
) -> dict[str, list[Bar]]:
    """Return the bars below the three numbers: teacher, student and baseline side by side."""
    shown = [model for model in found if model.is_teacher or model.is_baseline or model is student]
    kept = {m.name: summary["models"][m.name]["retention"] for m in shown}
    times = {m.name: first_latency(reports, m.name) for m in shown}
    sizes = {m.name: summary["models"][m.name]["num_parameters"] for m in shown}
    return {
        "score": [] if None in kept.values() else _bars(shown, kept, percent),
        "time": _bars(shown, times, lambda value: f"{fixed(value)} ms"),
        "size": _bars(shown, sizes, count),
    }


def _bars(
    shown: Sequence[Model], values: dict[str, float], written: Callable[[float], str]
) -> list[Bar]:
    longest = max(values.values())
    return [
        Bar(m.name, m.style, max(0.0, values[m.name]) / longest, written(values[m.name]))
        for m in shown
    ]


def first_latency(reports: Reports, model: str) -> float:
    """Return a model's median time in milliseconds at the smallest batch that was timed."""
    latency = reports.speed["models"][model]["latency_ms"]
    return float(latency[smallest_batch(latency)]["p50"])


def at_once(reports: Reports) -> str:
    """Return in words what the smallest batch that was timed holds."""
    batch = smallest_batch(reports.speed["models"][TEACHER]["latency_ms"])
    return "one sequence" if batch == "1" else f"{batch} sequences"


def larger_batches(reports: Reports, student: str) -> list[tuple[str, float]]:
    """Return a student's speed-up at every batch but the smallest."""
    speedup = reports.speed["ratios"][student]["speedup"]
    return [(batch, speedup[batch]) for batch in sorted(speedup, key=int)[1:]]


def seeds(reports: Reports) -> list[int]:
    """Return the seeds of the first task; all tasks share them."""
    return list(next(iter(reports.finetune[TEACHER].values()))["seeds"])


def dots(reports: Reports, summary: Json, found: Sequence[Model]) -> list[Markup]:
    """Return a picture per task in which every seed of every model is a dot."""
    return [
        seed_dots(
            f"dots-{task['name']}",
            f"{task['title']}: score of every seed",
            [
                Lane(model.name, model.style, score["values"], score["median"])
                for model in found
                for score in [reports.finetune[model.name][task["name"]]["score"]]
            ],
        )
        for task in summary["tasks"]
    ]


def scatters(
    reports: Reports, summary: Json, found: Sequence[Model]
) -> list[tuple[str, str, Markup]]:
    """Return the average score against time, size and work: a title, what is meant, a picture."""
    convention = summary["average_convention"]
    scores = {m.name: summary["models"][m.name]["average"][convention] for m in found}
    speed = reports.speed["models"]
    length = reports.speed["sequence_length"]
    costs = [
        ("Time", f"{at_once(reports)} of {length} tokens, median", "ms", first_latency),
        ("Size", "weights", "MB", lambda _, name: speed[name]["weights_megabytes"]),
        ("Work", "encoder, one sequence", "GFLOP", lambda _, name: speed[name]["encoder_gflops"]),
    ]
    return [
        (
            title,
            meaning,
            score_against(
                f"score-{title.lower()}",
                f"{convention} against {title.lower()}",
                (unit, convention),
                [Point(m.name, m.style, cost(reports, m.name), scores[m.name]) for m in found],
            ),
        )
        for title, meaning, unit, cost in costs
    ]


def num_judged(reports: Reports, task: str) -> int:
    """Return the examples a task is scored on, in its headline split."""
    return int(next(iter(reports.finetune[TEACHER][task]["num_validation"].values())))


def glue_retention(summary: Json, model: str) -> float | None:
    """Return what a model of this run kept on the published columns, whatever else was measured."""
    student, teacher = (
        {task: score["median"] for task, score in summary["models"][name]["tasks"].items()}
        for name in (model, TEACHER)
    )
    if not COLUMNS.keys() <= teacher.keys():
        return None
    return retention(student, {task: teacher[task] for task in COLUMNS})


def published_retention(row: Published) -> float | None:
    """Return what a published system kept of the first one, computed as this run's retention is."""
    student, teacher = (dict(zip(COLUMNS, r.scores, strict=True)) for r in (row, ROWS[0]))
    return retention(student, teacher)
