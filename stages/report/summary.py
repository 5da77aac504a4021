"""reports/summary.json: what every model scored, kept and cost, as one small file of numbers.

Everything is copied or derived from the other stages' reports: a median over seeds is the one its
report carries, an average has the name of its convention, and retention is against the teacher
measured here, never against a published one.
"""

from typing import Any

from stages.errors import DataError
from stages.evaluation.averages import averages, mean_of_tasks
from stages.evaluation.intervals import (
    LEVEL,
    METHOD,
    NUM_DRAWS,
    Answered,
    Interval,
    retention_intervals,
)
from stages.params import TEACHER
from stages.report.reading import Json, Reports, smallest_batch


def summarise(reports: Reports, profile: str, baseline: str | None) -> dict[str, Any]:
    """Return the summary; a model's speed-up is the one at the smallest batch."""
    models = {model: _model(reports, model) for model in reports.models}
    return {
        "profile": profile,
        "baseline": baseline,
        "tasks": [
            {
                "name": name,
                "title": report["title"],
                "is_glue": report["is_glue"],
                "is_derived": report["is_derived"],
            }
            for name, report in reports.finetune[TEACHER].items()
        ],
        "interval": {"method": METHOD, "level": LEVEL, "draws": NUM_DRAWS},
        "average_convention": next(iter(models[TEACHER]["average"])),
        "models": models,
        "gate": {student: gate["passed"] for student, gate in reports.gates.items()},
    }


def retention(student: dict[str, float], teacher: dict[str, float]) -> float | None:
    """Return the mean over tasks of student / teacher, in percent.

    None where a teacher scores 0 or less: a share of that says nothing.
    """
    if any(score <= 0 for score in teacher.values()):
        return None
    return 100 * sum(student[task] / teacher[task] for task in teacher) / len(teacher)


def _model(reports: Reports, model: str) -> dict[str, Any]:
    speed = reports.speed["models"][model]
    is_teacher = model == TEACHER
    speedup = {} if is_teacher else reports.speed["ratios"][model]["speedup"]
    medians, full = _medians(reports.finetune[model]), _medians(reports.finetune[TEACHER])
    interval, by_task = _intervals(reports, model)
    return {
        "num_parameters": speed["num_parameters"],
        "weights_megabytes": speed["weights_megabytes"],
        "speedup": 1.0 if is_teacher else speedup[smallest_batch(speedup)],
        "tasks": {
            task: {
                **{key: report["score"][key] for key in ("median", "min", "max")},
                "metrics": {name: spread["median"] for name, spread in report["metrics"].items()},
                "retention": retention({task: medians[task]}, {task: full[task]}),
                "retention_interval": by_task[task],
            }
            for task, report in reports.finetune[model].items()
        },
        "average": _average(reports.finetune[model]),
        "retention": retention(medians, full),
        "retention_interval": interval,
        "heldout_kl": None if is_teacher else reports.students[model]["heldout"].get("kl"),
        "finetune_seconds": sum(report["seconds"] for report in reports.finetune[model].values()),
    }


def _intervals(reports: Reports, model: str) -> tuple[Any, dict[str, Any]]:
    """Return the interval of the retention and each task's, None where there is none.

    There is none of the teacher itself, and none without what every model answered.
    """
    tasks = reports.finetune[model]
    pairs = {task: (reports.answers[TEACHER][task], reports.answers[model][task]) for task in tasks}
    answered = {
        task: Answered(teacher, student, tuple(tasks[task]["scored_by"]))
        for task, (teacher, student) in pairs.items()
        if teacher is not None and student is not None
    }
    if model == TEACHER or len(answered) < len(tasks):
        return None, dict.fromkeys(tasks)
    for task, pair in answered.items():
        if pair.student.answers_SN.shape[1] != pair.teacher.answers_SN.shape[1]:
            raise DataError(
                f"{model} and the teacher answered different examples of {task}; run: dvc repro"
            )
    whole, by_task = retention_intervals(answered)
    return _as_json(whole), {task: _as_json(interval) for task, interval in by_task.items()}


def _as_json(interval: Interval | None) -> dict[str, float] | None:
    return None if interval is None else {"low": interval.low, "high": interval.high}


def _medians(tasks: dict[str, Json]) -> dict[str, float]:
    return {task: report["score"]["median"] for task, report in tasks.items()}


def _average(tasks: dict[str, Json]) -> dict[str, float]:
    """Return the published conventions that are complete; without one, the plain mean."""
    metrics = {
        task: {metric: spread["values"] for metric, spread in report["metrics"].items()}
        for task, report in tasks.items()
    }
    return averages(metrics) or {"mean_of_tasks": mean_of_tasks(_medians(tasks))}
