"""What fine-tuning needs of a task of any kind: examples, a model with a head, a loss, answers.

Classification and regression are in classifier.py, answers that are spans of a text in spans.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, PreTrainedModel

from stages.errors import DataError
from stages.evaluation.classifier import TaskLoss, open_classifier, predict
from stages.evaluation.examples import Examples, read_examples
from stages.evaluation.metrics import score
from stages.evaluation.predictions import Predictions
from stages.evaluation.spans import SpanLoss, answer, open_span_model
from stages.evaluation.squad_metrics import score_answers
from stages.evaluation.task_folder import HIDDEN
from stages.evaluation.tasks import metric_key, split_metrics
from stages.evaluation.windows import Windows, read_windows
from stages.params import FineTune
from stages.students.positions import num_positions


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a task as a model meets it."""

    examples: Examples
    windows: Windows | None = None
    """Where the task asks questions on texts."""

    def __len__(self) -> int:
        """Return the number of examples as people count them: of questions, not of windows."""
        return len(self.windows.questions if self.windows else self.examples)


def read_split(
    folder: Path,
    task: dict[str, Any],
    split: str,
    tokenizer: Path,
    settings: FineTune,
    max_examples: int | None,
) -> Split:
    """Read one split of a task's folder and encode it.

    Raises:
        DataError: it cannot be read, or is longer than the model beside the tokenizer reads.
    """
    if task["kind"] == "span":
        windows = read_windows(
            folder,
            split,
            tokenizer,
            max_length=settings.max_length,
            stride=settings.stride,
            max_questions=max_examples,
        )
        found = Split(windows.examples, windows)
    else:
        found = Split(read_examples(folder, split, tokenizer, settings.max_length, max_examples))
    longest, most = max(map(len, found.examples.ids)), num_positions(config_of(tokenizer.parent))
    if longest > most:
        raise DataError(
            f"task {task['name']}: evaluation.finetune.max_length = {settings.max_length} leaves "
            f"texts with {longest} tokens, and {tokenizer.parent} reads {most} at most"
        )
    return found


def config_of(folder: Path) -> Any:
    """Return the configuration of a model folder.

    Raises:
        DataError: the folder lacks a file of a model.
    """
    for file in ("config.json", "model.safetensors"):
        if not (folder / file).is_file():
            raise DataError(f"{folder / file} does not exist: {folder} is no model folder")
    return AutoConfig.from_pretrained(folder, local_files_only=True)


def open_model(folder: Path, task: dict[str, Any], dropout: float, seed: int) -> PreTrainedModel:
    """Return the encoder in a folder with a head for the task; `seed` is of a new head's weights.

    Raises:
        DataError: the folder lacks a file, or holds a classifier whose labels are not the task's in
            its order.
    """
    if task["kind"] == "span":
        return open_span_model(folder, dropout, seed)
    _check_head(folder, task["labels"])
    return open_classifier(folder, task["labels"], dropout, seed)


def _check_head(folder: Path, labels: list[str] | None) -> None:
    """Refuse to go on from a classifier that was tuned to another order of the labels."""
    config = config_of(folder)
    has_head = any("ForSequenceClassification" in name for name in config.architectures or [])
    found = [config.id2label[i] for i in sorted(config.id2label)]
    if has_head and (found != labels if labels else len(found) > 1):
        wanted = f"{labels} in this order" if labels else "numbers"
        raise DataError(
            f"{folder} is a classifier with labels {found}, and the task has {wanted}: what it "
            "learned would be scored under other names; use a model without a classifier, or one "
            "with the task's answers"
        )


def objective(model: PreTrainedModel, task: dict[str, Any]) -> TaskLoss | SpanLoss:
    """Return the loss that a model is tuned by."""
    if task["kind"] == "span":
        return SpanLoss(model)
    return TaskLoss(model, regression=task["kind"] == "regression")


def answers(model: PreTrainedModel, split: Split, task: dict[str, Any]) -> Predictions:
    """Return what a model answers to every example of a split, in order."""
    if split.windows is not None:
        texts = answer(model, split.windows)
        accepted = [question.answers for question in split.windows.questions]
        return Predictions(np.array(texts, dtype=object), None, score_answers(texts, accepted))
    labels = predict(model, split.examples, regression=task["kind"] == "regression")
    return Predictions(labels, split.examples.labels)


def scored(by_split: dict[str, Predictions], task: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of every split with public labels, under their names in reports."""
    headline = task["validation_splits"][0]
    found: dict[str, float] = {}
    for split, given in by_split.items():
        if given.truth is None:
            metrics = {name: float(np.mean(values)) for name, values in given.scores.items()}
        elif split not in task["validation_splits"] and np.any(given.truth == HIDDEN):
            continue
        else:
            names = split_metrics(task["metrics"], split)
            metrics = score(names, given.answers, given.truth)
        found |= {metric_key(name, split, headline): value for name, value in metrics.items()}
    return found
