r"""Export a fine-tuned model: safetensors, ONNX and INT8, each scored on the task itself.

Reads a folder with a stock sequence classifier and its task's examples. A score that an ONNX file
loses past `export.max_score_drop` is an error: the report is written, the folder is not.

Run: python -m stages.export.task_model --model models/finetuned/distilbert-sst2 \
         --task-data data/tasks/sst2 --out models/export/distilbert-sst2 --report report.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from stages import params
from stages.command import log, parser_for, run
from stages.errors import DataError
from stages.evaluation.examples import Examples, read_examples
from stages.evaluation.metrics import headline, score
from stages.export.card import CARD, PYTORCH, TaskResult, model_card
from stages.export.export import ONNX, copy_model, describe, write_graphs
from stages.export.graph import Feeds, inputs_of
from stages.export.parity import (
    Logits,
    Tally,
    as_report,
    check,
    onnx_logits,
    open_session,
    refuse,
    torch_logits,
)
from stages.export.tokenizer import TOKENIZER, write_tokenizer
from stages.files import atomic_output, read_json, write_json
from stages.students.heads import quiet_transformers
from stages.students.positions import num_positions

BATCH = 32


def export_task_model(
    source: Path, task_folder: Path, settings: params.Params, out: Path, report: Path
) -> dict[str, Any]:
    """Export one fine-tuned model and return its report.

    Raises:
        DataError: the folder holds no classifier of this task.
        ParityError: an ONNX file does not answer as PyTorch, or loses too much of the score.
    """
    task = read_json(task_folder / "task.json")
    if task["kind"] == "span":
        raise DataError(
            f"task {task['name']} asks for spans of a text; only classifiers and "
            "regressions are exported"
        )
    split = task["validation_splits"][0]
    # Choices of a grid differ in how they train, not in what they read.
    tuning = settings.evaluation.finetune.choices(task["name"])[0]
    max_length, tokenizer = tuning.max_length, source / TOKENIZER
    # Those that fine-tuning is scored on, so that PyTorch's score is the one its report has.
    examples = read_examples(
        task_folder, split, tokenizer, max_length, tuning.max_validation_examples
    )
    with atomic_output(out) as folder:
        folder.mkdir()
        copy_model(source, folder)
        model = open_task_model(folder, task)
        write_tokenizer(source, folder, model, max_length)
        calibration: list[Feeds] = []
        if settings.export.int8.activations == "calibrated":
            training = read_examples(
                task_folder,
                "train",
                tokenizer,
                max_length,
                settings.export.int8.calibration_rows,
            )
            calibration = feeds_of(training, model, batch=1)
        exported = write_graphs(model, folder, settings.export.int8, calibration)
        batches = feeds_of(examples, model, BATCH)
        expected = [torch_logits(model, batch) for batch in batches]
        scores = {PYTORCH: score_of(task, expected, examples)}
        parity = {}
        for kind, path in exported.items():
            session = open_session(path)
            found = [onnx_logits(session, batch) for batch in batches]
            tally = Tally()
            for theirs, ours in zip(expected, found, strict=True):
                tally.add(theirs, ours)
            parity[kind] = tally.parity()
            scores[ONNX[kind]] = score_of(task, found, examples)
        result: dict[str, Any] = {
            "model": out.name,
            "task": task["name"],
            "inputs": list(inputs_of(model)),
            "num_examples": len(examples),
            "max_length": max_length,
            "scores": scores,
            "max_tokens": num_positions(model.config),
            "files": describe(folder),
            **{kind: as_report(found) for kind, found in parity.items()},
        }
        about = TaskResult(
            task=task["name"],
            title=task["title"],
            is_derived=task["is_derived"],
            num_examples=len(examples),
            split=split,
            labels=task["labels"],
            is_pair=task["pair"],
            scores=scores,
        )
        card = model_card(out.name, model.config.to_dict(), result, result=about)
        (folder / CARD).write_text(card, encoding="utf-8")
        result["files"] = describe(folder)
        write_json(report, result)
        check(parity, settings.export, report)
        refuse(faults_of(scores, settings.export.max_score_drop), report)
    return result


def open_task_model(folder: Path, task: dict[str, Any]) -> PreTrainedModel:
    """Open a classifier and make sure that its labels are the task's, in their order."""
    quiet_transformers()
    config = read_json(folder / "config.json")
    kinds = config.get("architectures") or ["nothing"]
    if not kinds[0].endswith("ForSequenceClassification"):
        raise DataError(
            f"{folder.name}/config.json: architectures = {kinds}: must be a "
            "...ForSequenceClassification; python -m stages.evaluation.keep makes one"
        )
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder, use_safetensors=True, local_files_only=True
    )
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    fits = labels == task["labels"] if task["labels"] else len(labels) == 1
    if not fits:
        raise DataError(
            f"{folder.name}/config.json: labels {labels} are not those of task {task['name']}: "
            f"{task['labels'] or 'a number'}"
        )
    return model.float().eval()


def feeds_of(examples: Examples, model: PreTrainedModel, batch: int) -> list[Feeds]:
    """Return a task's texts as a graph takes them, in their order."""
    names = inputs_of(model)
    found = []
    for start in range(0, len(examples), batch):
        tensors = examples.batch(np.arange(start, min(start + batch, len(examples))))
        found.append({name: tensors[name].numpy() for name in names})
    return found


def score_of(task: dict[str, Any], logits: Sequence[Logits], examples: Examples) -> float:
    """Return the task's score, 0 to 100, of logits B x C."""
    answers_BC = np.concatenate(logits)
    regression = task["kind"] == "regression"
    predictions = answers_BC[:, 0] if regression else answers_BC.argmax(-1)
    metrics = score(task["metrics"], predictions, examples.labels)
    return round(headline(metrics, task["scored_by"]), 4)


def faults_of(scores: dict[str, float], allowed: float) -> list[str]:
    """Return a line for every file that scores too far below PyTorch."""
    return [
        f"{file}: scores {found:.2f} where PyTorch scores {scores[PYTORCH]:.2f}, and "
        f"export.max_score_drop allows {allowed:g} points"
        for file, found in scores.items()
        if not found >= scores[PYTORCH] - allowed
    ]


def main(arguments: argparse.Namespace) -> None:
    """Export one fine-tuned model."""
    result = export_task_model(
        arguments.model, arguments.task_data, params.load(), arguments.out, arguments.report
    )
    for file, found in result["scores"].items():
        log.info("%s: %.2f on %d examples", file, found, result["num_examples"])
    log.info("%s is in %s", result["model"], arguments.out)


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["model", "task-data", "out", "report"]))
