"""What the reports say, as rows: one table for the terminal and for Prefect's page.

Reads reports/summary.json, reports/gate/*.json and reports/registry/*.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.tables import as_markdown, as_text, turned
from stages.errors import DataError
from stages.files import read_json
from stages.params import TEACHER

REPORT = Path("reports/report.html")
DATA_DOCS = Path("reports/data_docs/index.html")


@dataclass(frozen=True, slots=True)
class Check:
    """What the gate said about one quantity of a student."""

    name: str
    passed: bool
    value: str
    bound: str
    """The rule and its number, such as `at least 0.9`."""
    meaning: str
    is_judged: bool
    """Whether the verdict asks for it; else it is only reported."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate said about one student."""

    student: str
    passed: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered version."""

    model: str
    version: int
    student: str

    def __str__(self) -> str:
        """Return it as `distilbert-student version 3 (distilbert)`."""
        return f"{self.model} version {self.version} ({self.student})"


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that the end of a run shows."""

    profile: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    """What a reader must know to read the table."""
    verdicts: tuple[Verdict, ...]
    registered: tuple[Registered, ...]


def read_results(root: Path) -> Results | None:
    """Return what the reports hold, or None where no run has written them yet."""
    reports = root / "reports"
    try:
        summary = read_json(reports / "summary.json")
    except DataError:
        return None
    tasks = summary["tasks"]
    convention = summary["average_convention"]
    baseline = summary["baseline"]
    header = ("model", "parameters", "MB", "speed-up", *(task["title"] for task in tasks))
    rows = tuple(
        _row(name, model, [task["name"] for task in tasks], convention, name == baseline)
        for name, model in sorted(
            summary["models"].items(), key=lambda item: (item[0] != TEACHER, item[0] == baseline)
        )
    )
    return Results(
        profile=summary["profile"],
        header=(*header, "average", "retention", "held-out KL"),
        rows=rows,
        notes=_notes(summary),
        verdicts=tuple(map(_verdict, _of_exported(reports / "gate", summary))),
        registered=tuple(map(_version, _of_exported(reports / "registry", summary))),
    )


def _of_exported(folder: Path, summary: dict[str, Any]) -> list[Path]:
    """Return the reports of the exported students, and none that earlier settings left."""
    paths = (folder / f"{name}.json" for name in sorted(summary["gate"]))
    return [path for path in paths if path.is_file()]


def result_lines(results: Results, width: int) -> list[str]:
    """Return the results and the gate's verdicts as lines for a terminal of `width` columns."""
    table = as_text(results.header, results.rows)
    if max(map(len, table.splitlines())) > width:
        # Too wide for the terminal: a model per column instead of a model per row.
        table = as_text(*turned(results.header, results.rows))
    return [
        "",
        f"Results of profile {results.profile}",
        "",
        table,
        "",
        *results.notes,
        "",
        *verdict_lines(results.verdicts),
    ]


def report_line(root: Path) -> str:
    """Say where the page is."""
    return f"Report:  {root / REPORT} (open it in a browser)"


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Say each student's verdict in one line, and each check it fails in one more."""
    lines = []
    for verdict in verdicts:
        lines.append(_in_a_line(verdict))
        lines += [
            f"  fails {check.name}: {check.value}, must be {check.bound}"
            for check in verdict.checks
            if not check.passed
        ]
    return lines


def gate_page(verdicts: Sequence[Verdict]) -> str:
    """Return every check of every verdict, in Markdown."""
    return "\n\n".join(part for v in verdicts for part in (f"**{_in_a_line(v)}**", _checks(v)))


def _in_a_line(verdict: Verdict) -> str:
    judged = [check for check in verdict.checks if check.is_judged]
    num_passed = sum(check.passed for check in judged)
    word = "passes" if verdict.passed else "does not pass"
    return f"{verdict.student} {word} the gate: {num_passed} of {len(judged)} checks"


def _checks(verdict: Verdict) -> str:
    rows = [
        (each.name, _outcome(each), each.value, each.bound, each.meaning) for each in verdict.checks
    ]
    return as_markdown(("check", "", "value", "bound", "what it is"), rows, rule="---")


def _outcome(check: Check) -> str:
    if not check.is_judged:
        return "not asked"
    return "passes" if check.passed else "**FAILS**"


def _row(
    name: str, model: dict[str, Any], tasks: list[str], convention: str, is_baseline: bool
) -> tuple[str, ...]:
    scores = [_score(model["tasks"].get(task)) for task in tasks]
    return (
        f"{name} (baseline)" if is_baseline else name,
        f"{model['num_parameters'] / 1e6:.1f} M",
        _number(model["weights_megabytes"], "{:.0f}"),
        _number(model["speedup"], "{:.2f}x"),
        *scores,
        _number(model["average"].get(convention), "{:.1f}"),
        _number(model["retention"], "{:.1f} %"),
        _number(model["heldout_kl"], "{:.3f}"),
    )


def _score(score: dict[str, float] | None) -> str:
    if score is None:
        return "-"
    return f"{score['median']:.1f} ({score['min']:.1f}-{score['max']:.1f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _notes(summary: dict[str, Any]) -> tuple[str, ...]:
    notes = [
        "Scores are 0-100: the median over the seeds, and (lowest-highest).",
        f"The average is {summary['average_convention']}; retention is the student's score / the "
        f"teacher's{', the mean over the tasks' if len(summary['tasks']) > 1 else ''}.",
        "Held-out KL: nats per token between teacher and student on unseen text, lower is better.",
    ]
    derived = [task["title"] for task in summary["tasks"] if task["is_derived"]]
    if derived:
        notes.append(f"Made from the corpus and not GLUE: {', '.join(derived)}.")
    if summary["baseline"]:
        notes.append(f"{summary['baseline']} is the same student trained without its teacher.")
    return tuple(notes)


def _verdict(path: Path) -> Verdict:
    gate = read_json(path)
    checks = tuple(
        Check(
            check["name"],
            check["passed"],
            _value(check["value"]),
            f"{check['rule']} {_value(check['threshold'])}",
            check["meaning"],
            check["is_judged"],
        )
        for check in gate["checks"]
    )
    return Verdict(gate["student"], gate["passed"], checks)


def _value(value: float | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(path: Path) -> Registered:
    entry = read_json(path)
    return Registered(entry["model_name"], entry["version"], path.stem)
