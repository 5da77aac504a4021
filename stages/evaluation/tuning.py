"""How a model is tuned on a task: the schedule, the one loop, and a whole seed with its scores."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import PreTrainedModel

from stages.errors import SettingsError
from stages.evaluation.examples import ShuffledBatches
from stages.evaluation.predictions import table_of
from stages.evaluation.task_models import Split, answers, objective, open_model, scored
from stages.params import FineTune, Launch, Schedule, TaskPhase
from stages.training.loop import train
from stages.training.processes import Processes
from stages.training.spending import Outcome
from stages.training.steps import Objective


@dataclass(frozen=True, slots=True)
class Tuned:
    """What one seed made of a model, and what that was measured to do."""

    model: PreTrainedModel
    metrics: dict[str, float]
    answers: pa.Table
    seconds: float
    """Of training, earlier attempts that were killed included, and of scoring."""


def alone(processes: Processes) -> None:
    """Refuse several processes, which would all write and then remove the same files.

    Raises:
        SettingsError: there are several.
    """
    if processes.world_size > 1:
        raise SettingsError(
            f"a task is the work of one process, and there are {processes.world_size}: run this "
            "without torchrun; other tasks, models and recipes run beside it, on a GPU each "
            "(CUDA_VISIBLE_DEVICES)"
        )


def tuning_schedule(settings: FineTune | TaskPhase, **others: Any) -> Schedule:
    """Return the schedule of settings of a task; the optimiser is that of published fine-tuning."""
    return Schedule(
        num_epochs=settings.num_epochs,
        batch_sequences=settings.batch_examples,
        learning_rate=settings.learning_rate,
        warmup_fraction=settings.warmup_fraction,
        weight_decay=settings.weight_decay,
        precision=settings.precision,
        betas=(0.9, 0.999),
        epsilon=1e-8,
        max_grad_norm=1.0,
        **others,
    )


def tune(
    loss: Objective,
    batches: ShuffledBatches,
    schedule: Schedule,
    launch: Launch,
    processes: Processes,
    *,
    seed: int,
    title: str,
    workspace: Path | None = None,
    keeps_end: bool = True,
) -> Outcome:
    """Train an objective on a task's examples; without a `workspace` a kill starts it over."""
    return train(
        loss,
        batches,
        schedule,
        schedule.total_steps(len(batches.examples)),
        # A batch of a task is small enough to go through in one piece.
        launch.model_copy(update={"micro_batch_sequences": schedule.batch_sequences}),
        processes,
        seed=seed,
        workspace=workspace,
        title=title,
        keeps_end=keeps_end,
    )


def tune_on_labels(
    model: PreTrainedModel,
    task: dict[str, Any],
    training: Split,
    settings: FineTune,
    launch: Launch,
    processes: Processes,
    seed: int,
    workspace: Path | None = None,
) -> Outcome:
    """Train a model that has the task's head on the task's labels."""
    return tune(
        objective(model, task),
        ShuffledBatches(training.examples, settings.batch_examples, seed),
        tuning_schedule(settings),
        launch,
        processes,
        seed=seed,
        title=f"{task['name']} seed {seed}",
        workspace=workspace,
        # A table is hundreds of such runs, and a checkpoint takes longer than the shortest.
        keeps_end=False,
    )


def tune_and_score(
    model_folder: Path,
    task: dict[str, Any],
    training: Split,
    judged: Mapping[str, Split],
    settings: FineTune,
    launch: Launch,
    processes: Processes,
    seed: int,
    workspace: Path,
) -> Tuned:
    """Tune the encoder in a folder with one seed, and score it on other splits.

    Checkpoints stand in `workspace`: killed, the same call goes on from the last.
    """
    model = open_model(model_folder, task, settings.dropout, seed).to(processes.device)
    outcome = tune_on_labels(model, task, training, settings, launch, processes, seed, workspace)
    clock = time.monotonic()
    given = {split: answers(model, examples, task) for split, examples in judged.items()}
    metrics = scored(given, task)
    seconds = outcome.seconds + time.monotonic() - clock
    return Tuned(model, metrics, table_of(seed, given), seconds)


def spread(values: list[float]) -> dict[str, Any]:
    """Return the median, mean and range of the seeds' values, and every value."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }
