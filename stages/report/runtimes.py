"""What the page shows of speed: every model in every runtime, at every batch size and length."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.params import TEACHER
from stages.report.reading import Json, Reports
from stages.report.sections import Bar, Model
from stages.report.wording import fixed, times


@dataclass(frozen=True, slots=True)
class Runtime:
    """One model in one runtime, and where speed.json has it."""

    model: Model
    name: str
    index: int


def runtimes(reports: Reports, found: Sequence[Model]) -> list[Runtime]:
    """Return every model in every runtime, in the order in which they were opened."""
    models = {model.name: model for model in found}
    return [
        Runtime(models[entry["model"]], entry["runtime"], i)
        for i, entry in enumerate(reports.speed.get("runtimes", []))
        if entry["model"] in models
    ]


def shapes(reports: Reports) -> list[Json]:
    """Return the batch sizes and lengths that were timed, each as one cell names it."""
    measured = reports.speed.get("runtimes", [])
    return list(measured[0]["cells"]) if measured else []


def fastest_first(reports: Reports, shown: Sequence[Runtime]) -> list[Bar]:
    """Return how many times as fast as the teacher in PyTorch each is, one text at a time."""
    measured = [
        (runtime, reports.speed["runtimes"][runtime.index]["cells"][0]) for runtime in shown
    ]
    measured.sort(key=lambda pair: -pair[1]["speedup"])
    longest = max((cell["speedup"] for _, cell in measured), default=1.0)
    return [
        Bar(
            f"{runtime.model.name}, {runtime.name}",
            runtime.model.style,
            cell["speedup"] / longest,
            f"{times(cell['speedup'])} \u00b7 {fixed(cell['latency_ms']['p50'])} ms",
        )
        for runtime, cell in measured
    ]


def beside_itself(reports: Reports) -> float | None:
    """Return how many times as fast INT8 makes the teacher: what needs no student at all."""
    found = [
        entry["cells"][0]["speedup"]
        for entry in reports.speed.get("runtimes", [])
        if entry["model"] == TEACHER
    ]
    return max(found) if len(found) > 1 else None
