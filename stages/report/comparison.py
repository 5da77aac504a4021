r"""Every model of a run in one table, against the baselines, and on which Pareto fronts it lies.

Reads the reports that the graph left, and reports/beside/<row>/<task>.json: rows that no stage
makes, such as distillation on a task (stages.evaluation.distil_task) or the teacher made smaller by
other means (stages.export.compressed). Rows that lack a task are named and left out.

Run: python -m stages.report.comparison --reports reports [--tasks squad] [--picture comparison.svg]
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DataError, SettingsError
from stages.files import read_json, write_text
from stages.params import TEACHER
from stages.report.scatter import Point, front, score_against
from stages.report.svg import tag

PYTORCH = "PyTorch"
BESIDE = "beside"
STYLE = (
    ".grid{stroke:#e3e3e3}.axis{stroke:#777}.front{fill:none;stroke:#999;stroke-dasharray:4 3}"
    "text{font:11px sans-serif;fill:#333}.dot{fill:#2a63c4}svg{background:#fff}"
)
PANEL = (360, 270)


@dataclass(frozen=True, slots=True)
class Row:
    """One model: what it scores, and what it costs to train and to use; None is not known."""

    name: str
    scores: Mapping[str, Mapping[str, Any]]
    """By task: median, min and max over seeds."""
    num_parameters: int | None
    megabytes: float | None
    milliseconds: float | None
    """One sequence, median."""
    num_tokens: int | None
    """Of the corpus, in training."""
    seconds: float | None
    """Of training, that on tasks included where a teacher teaches them; without fine-tuning."""
    heldout_kl: float | None

    @property
    def mean(self) -> float:
        """Mean over tasks of the medians."""
        return sum(score["median"] for score in self.scores.values()) / len(self.scores)


def read_rows(folder: Path, students: Sequence[str], tasks: Sequence[str]) -> list[Row]:
    """Return the teacher, the students and what stands beside them, as far as all tasks are there.

    Raises:
        DataError: the teacher lacks a task, so that nothing can be compared, or what stands beside
            the models has the name of one.
    """
    speed = read_json(folder / "speed.json") if (folder / "speed.json").exists() else None
    found = []
    for name, reports, is_beside in [
        *((name, folder / "finetune" / name, False) for name in (TEACHER, *students)),
        *((path.name, path, True) for path in sorted((folder / BESIDE).glob("*"))),
    ]:
        if is_beside and name in (TEACHER, *students):
            raise DataError(f"{reports} has the name of a model: rows need names of their own")
        missing = [task for task in tasks if not (reports / f"{task}.json").exists()]
        if missing:
            if name == TEACHER:
                raise DataError(f"{reports}/{missing[0]}.json does not exist; run: dvc repro")
            log.warning("%s is left out: it has no report of %s", name, ", ".join(missing))
            continue
        by_task = {task: read_json(reports / f"{task}.json") for task in tasks}
        about = by_task[tasks[0]]
        model = about["model"] if is_beside else name
        trained = folder / "students" / f"{model}.json"
        training = read_json(trained) if trained.exists() else {}
        seconds = [training["seconds"]] if "seconds" in training else []
        if is_beside:
            # What a student takes on the tasks comes after what it took before them.
            seconds += [
                report["seconds"] / len(report["seeds"])
                for report in by_task.values()
                if "seconds" in report
            ]
        cost = _cost(speed, model, about.get("runtime", PYTORCH))
        found.append(
            Row(
                name=name.replace("_", " ") if is_beside else name,
                scores={task: report["score"] for task, report in by_task.items()},
                num_parameters=about.get("num_parameters", cost.get("num_parameters")),
                megabytes=about.get("weights_megabytes", cost.get("megabytes")),
                milliseconds=cost.get("milliseconds"),
                num_tokens=training.get("num_tokens"),
                seconds=sum(seconds) if seconds else None,
                heldout_kl=None if is_beside else training.get("heldout", {}).get("kl"),
            )
        )
    return found


def _cost(speed: Any, model: str, runtime: str) -> dict[str, Any]:
    if speed is None or model not in speed["models"]:
        return {}
    timed = [r for r in speed["runtimes"] if (r["model"], r["runtime"]) == (model, runtime)]
    if not timed:
        return {}
    return {
        "num_parameters": speed["models"][model]["num_parameters"],
        "megabytes": timed[0]["file_megabytes"],
        "milliseconds": timed[0]["cells"][0]["latency_ms"]["p50"],
    }


def table(rows: Sequence[Row], baselines: Sequence[str]) -> str:
    """Return the rows as Markdown, the best first, each with its lead over every baseline."""
    tasks = list(rows[0].scores)
    means = {row.name: row.mean for row in rows}
    against = [name for name in baselines if name in means]
    fronts = {what: _front(rows, what) for what in ("milliseconds", "megabytes")}
    header = [
        "", "parameters, M", "MB", "ms", "tokens, M", "training, s", "held-out KL", *tasks, "mean",
        *(f"over {name}" for name in against), "front",
    ]  # fmt: skip
    lines = [header, ["---", *["---:"] * (len(header) - 2), "---"]]
    for row in sorted(rows, key=lambda row: -row.mean):
        leads = [f"{row.mean - means[name]:+.1f}" if row.name != name else "" for name in against]
        on = [
            meant
            for what, meant in (("milliseconds", "time"), ("megabytes", "size"))
            if row.name in fronts[what]
        ]
        lines.append(
            [
                row.name,
                _number(row.num_parameters, 1, 1e6),
                _number(row.megabytes, 1),
                _number(row.milliseconds, 1),
                _number(row.num_tokens, 2, 1e6),
                _number(row.seconds, 0),
                _number(row.heldout_kl, 3),
                *(_score(row.scores[task]) for task in tasks),
                f"{row.mean:.1f}",
                *leads,
                ", ".join(on),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _front(rows: Sequence[Row], what: str) -> set[str]:
    return {point.label for point in front(_points(rows, what))}


def _points(rows: Sequence[Row], what: str) -> list[Point]:
    return [
        Point(row.name, "model", cost, row.mean)
        for row in rows
        if (cost := getattr(row, what)) is not None
    ]


def _number(value: float | None, decimals: int, unit: float = 1.0) -> str:
    return "-" if value is None else f"{value / unit:.{decimals}f}"


def _score(score: Mapping[str, Any]) -> str:
    if score["min"] == score["max"]:
        return f"{score['median']:.1f}"
    return f"{score['median']:.1f} ({score['min']:.1f} to {score['max']:.1f})"


def pareto(rows: Sequence[Row]) -> Markup:
    """Return the mean score against time and against size, side by side, as one SVG file."""
    panels = []
    for place, (what, unit) in enumerate((("milliseconds", "ms"), ("megabytes", "MB"))):
        if points := _points(rows, what):
            drawn = score_against(
                f"mean-{what}", f"mean score against {what}", (unit, "mean score"), points
            )
            x, (width, height) = place * (PANEL[0] + 20), PANEL
            panels.append(tag("svg", drawn, x=x, width=width, height=height))
    return tag(
        "svg",
        tag("style", STYLE),
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {2 * PANEL[0] + 20} {PANEL[1]}",
    )


def main(arguments: argparse.Namespace) -> None:
    """Print the table, and draw the picture where one is asked for."""
    settings = params.load()
    evaluation = settings.evaluation
    tasks = arguments.tasks or evaluation.tasks
    rows = read_rows(arguments.reports, evaluation.students, tasks)
    for name in arguments.against or ():
        if name not in (known := [row.name for row in rows]):
            raise SettingsError(f"--against {name}: the rows are {', '.join(known)}")
    # Whoever is compared, they are compared with what no teacher and no training gave.
    untrained = [name for name, recipe in settings.recipes.items() if not recipe.phases]
    baselines = [*([evaluation.baseline] if evaluation.baseline else []), *untrained]
    print(table(rows, arguments.against or list(dict.fromkeys(baselines))))
    if arguments.picture:
        write_text(arguments.picture, str(pareto(rows)) + "\n")
        log.info("%s written", arguments.picture)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["reports"])
    parser.add_argument(
        "--picture", type=Path, metavar="PATH", help="of both Pareto fronts, as SVG"
    )
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="columns (default: evaluation.tasks)"
    )
    parser.add_argument(
        "--against",
        nargs="+",
        metavar="MODEL",
        help="baselines (default: evaluation.baseline and students without phases)",
    )
    run(main, parser)
