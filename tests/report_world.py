"""A small run's reports, as the other stages write them: one teacher, two students, two tasks."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluation.predictions import Predictions, table_of, write_predictions

STUDENTS = ["distilbert", "mlm_only"]
TASKS = ["acceptability", "package"]
PARAMETERS = {"teacher": 22_000_000, "distilbert": 11_000_000, "mlm_only": 11_000_000}
RUNTIMES = {"PyTorch": 1.0, "ONNX INT8": 4.0}
# model -> task -> a score per seed.
SCORES = {
    "teacher": {"acceptability": [50.0, 52.0, 40.0], "package": [80.0, 80.0, 84.0]},
    "distilbert": {"acceptability": [45.0, 44.0, 46.0], "package": [76.0, 70.0, 78.0]},
    "mlm_only": {"acceptability": [30.0, 25.0, 35.0], "package": [60.0, 64.0, 68.0]},
}


def write_reports(folder: Path) -> Path:
    """Write every report below `folder` and return it."""
    for model, tasks in SCORES.items():
        for task, values in tasks.items():
            put(folder / "finetune" / model / f"{task}.json", finetune_report(task, values))
            write_answers(folder / "predictions" / model / f"{task}.parquet", values)
        columns = "ce,mlm,cos" if model == "distilbert" else "mlm"
        rows = [f"step,loss,{columns},learning_rate"]
        for step in (1, 2, 3):
            losses = [f"{9 - step - i}" for i in range(columns.count(",") + 1)]
            rows.append(",".join([str(step), "12.5", *losses, "0.001"]))
        curve = folder / "curves" / f"{model}.csv"
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text("\n".join(rows) + "\n")
    cost = {"num_steps": 100, "num_tokens": 204800, "seconds": 90.0, "device": "cpu"}
    cost |= {"device_hours": 0.025, "tokens_per_second": 2275.5}
    put(folder / "teacher.json", cost | {"heldout": {"mlm": 4.5}, "initial_heldout": {"mlm": 10.4}})
    for name, ce in (("distilbert", 5.0), ("mlm_only", 0.0)):
        put(
            folder / "students" / f"{name}.json",
            cost
            | {
                "weights": (weights := {"ce": ce, "mlm": 1.0, "cos": ce / 5}),
                "phases": [{"weights": weights} | ({"temperature": 2.0} if ce else {})],
                "num_layers": 3,
                "teacher_layers": [0, 2, 5],
                "heldout": {"kl": 0.75 if ce else 1.5, "mlm": 5.0, "cos": 0.1},
                "initial_heldout": {"kl": 4.0, "mlm": 8.0, "cos": 0.5},
            },
        )
    put(folder / "speed.json", speed_report())
    put(
        folder / "corpus.json",
        {
            "sources": {"docstrings": {"num_read": 900, "num_kept": 500, "num_characters": 4000}},
            "num_documents": {"train": 460, "heldout": 40},
            "num_characters": {"train": 3700, "heldout": 300},
            "dropped": {"too_short": 390, "duplicate": 10},
            "dropped_paragraphs": {"code": 55},
            "examples": {"too_short": ["Too short."]},
            "paragraph_examples": {"code": ["import <this>"]},
            "warnings": ["books/a.txt: not UTF-8, read as Latin-1"],
        },
    )
    check = {"name": "enough tokens", "column": "input_ids", "observed": 9000, "bound": [1, None]}
    put(
        folder / "expectations.json",
        {"passed": True, "checks": [check | {"passed": True}], "statistics": {"num_tokens": 9000}},
    )
    put(
        folder / "export" / "distilbert.json",
        {
            "files": {"model.int8.onnx": {"megabytes": 11.5, "sha256": "ab" * 32}},
            "fp32": {"max_logit_difference": 2.5e-5, "agreement": 1.0, "divergence": 0.0},
            "int8": {"max_logit_difference": 1.25, "agreement": 0.9625, "divergence": 0.003},
        },
    )
    verdict = {"rule": "at least", "is_judged": True, "threshold": 1.2, "value": 1.75}
    verdict |= {"passed": True}
    put(
        folder / "gate" / "distilbert.json",
        {"passed": True, "checks": [verdict | {"name": "speedup", "meaning": "teacher / student"}]},
    )
    return folder


def write_answers(path: Path, values: list[float]) -> None:
    """Write answers to 400 examples that are right as often as the scores say."""
    truth = np.arange(400) % 2
    tables = []
    for seed, value in enumerate(values, start=1):
        wrong = np.random.default_rng(seed).permutation(400) >= 4 * value
        given = {"validation": Predictions(np.where(wrong, 1 - truth, truth), truth)}
        tables.append(table_of(seed, given))
    write_predictions(tables, path)


def finetune_report(task: str, values: list[float]) -> dict[str, Any]:
    """Return the report of one model on one task."""
    return {
        "title": f"{task.title()} (derived)",
        "is_glue": False,
        "is_derived": True,
        "scored_by": ["accuracy"],
        "score": spread(values),
        "metrics": {"accuracy": spread([value / 100 for value in values])},
        "seeds": [1, 2, 3],
        "num_train": 600,
        "num_validation": {"validation": 400},
        "seconds": 30.0,
        "selected_from": [],
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Return what a report says of an odd number of values."""
    ordered = sorted(values)
    median = ordered[len(values) // 2]
    return {"median": median, "min": ordered[0], "max": ordered[-1], "values": values}


def speed_report() -> dict[str, Any]:
    """Return a speed report in which students take 4/7 of the teacher's time."""
    return {
        "machine": {"processor": "a processor", "num_cores": 2, "num_threads": 2, "torch": "2"},
        "sequence_length": 128,
        "models": {
            model: {
                "num_parameters": number,
                "weights_megabytes": number * 4 / 1e6,
                "encoder_gflops": number / 1e7,
                "latency_ms": {
                    batch: {"p50": number / 1e6 * int(batch), "p95": number / 9e5 * int(batch)}
                    for batch in ("1", "16")
                },
            }
            for model, number in PARAMETERS.items()
        },
        "ratios": {
            student: {"speedup": {"16": 1.5, "1": 1.75}, "parameter_fraction": 0.5}
            for student in STUDENTS
        },
        "runtimes": [
            {
                "model": model,
                "runtime": runtime,
                "file_megabytes": number * 4 / 1e6 / factor,
                "peak_megabytes": number / 1e5,
                "cells": [cell(batch, number / factor) for batch in (1, 16)],
            }
            for model, number in PARAMETERS.items()
            for runtime, factor in RUNTIMES.items()
        ],
        "published_pass": {
            "texts": "STS-B validation",
            "num_texts": 1500,
            "mean_length": 27.5,
            "seconds": {model: number / 1e6 for model, number in PARAMETERS.items()},
            "speedup": {model: 22e6 / number for model, number in PARAMETERS.items()},
        },
    }


def cell(batch: int, work: float) -> dict[str, Any]:
    """Return one cell of a runtime that takes a millisecond for a million."""
    milliseconds = work / 1e6 * batch
    return {
        "batch": batch,
        "length": 128,
        "latency_ms": {"p50": milliseconds, "p95": milliseconds * 1.1},
        "sequences_per_second": 1000 * batch / milliseconds,
        "speedup": 22e6 / work,
        "joules_per_sequence": None,
    }


def put(path: Path, value: object) -> None:
    """Write a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
