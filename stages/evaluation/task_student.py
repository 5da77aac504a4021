"""One student taken through every phase of distillation on a task."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from stages.distillation.layer_terms import layer_term
from stages.distillation.phases import draw, hold_unreached
from stages.distillation.terms import LayerTerm
from stages.errors import SettingsError
from stages.evaluation.classifier import logits_of_all
from stages.evaluation.examples import ShuffledBatches
from stages.evaluation.task_distillation import TaskDistillation
from stages.evaluation.task_models import Split, open_model
from stages.evaluation.tuning import tune, tuning_schedule
from stages.params import Launch
from stages.params import TaskDistillation as Settings
from stages.training.processes import Processes


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the students of all seeds are taught alike."""

    task: dict[str, Any]
    teacher: PreTrainedModel
    training: Split
    taught_NC: NDArray[np.float32] | None
    """The teacher's logits for all examples; None where no phase reads them alone."""
    settings: Settings


def lesson(
    task: dict[str, Any], teacher: PreTrainedModel, training: Split, settings: Settings
) -> Lesson:
    """Return a lesson, with the teacher's answers where they alone are learnt from.

    Asked once: every epoch of every seed has the same text, and the teacher has no dropout.
    """
    taught_NC = None
    if task["kind"] != "span" and any(p.soft_targets and not p.objectives for p in settings.phases):
        taught_NC = logits_of_all(teacher, training.examples)
    return Lesson(task, teacher, training, taught_NC, settings)


def phase_terms(
    settings: Settings, student: Any, teacher: Any, projections: nn.ModuleDict
) -> list[list[LayerTerm]]:
    """Return for every phase the terms of its objectives, from both models' configurations.

    Raises:
        SettingsError: an objective does not fit this student and this teacher; names the phase.
    """
    found = []
    for phase in settings.phases:
        try:
            terms = [layer_term(x, student, teacher, projections) for x in phase.objectives]
        except SettingsError as error:
            raise SettingsError(f"phase {phase.name}: {error}") from error
        found.append([term for term in terms if term is not None])
    return found


def distil_once(
    given: Lesson,
    student_folder: Path,
    launch: Launch,
    processes: Processes,
    seed: int,
    workspace: Path,
) -> tuple[PreTrainedModel, float]:
    """Take a student through every phase; return it and the seconds of training.

    Checkpoints of the phases stand in `workspace`: killed, the same call goes on from the last.
    """
    student = open_model(student_folder, given.task, given.settings.dropout, seed)
    student = student.to(processes.device)
    projections = nn.ModuleDict()
    terms = phase_terms(given.settings, student.config, given.teacher.config, projections)
    losses = [
        TaskDistillation(student, given.teacher, phase, found, projections, kind=given.task["kind"])
        for phase, found in zip(given.settings.phases, terms, strict=True)
    ]
    draw(projections, seed, student.config.initializer_range)
    projections.to(processes.device)
    seconds = 0.0
    for index, (phase, loss) in enumerate(zip(given.settings.phases, losses, strict=True)):
        known = given.taught_NC if loss.reads_answers_alone else None
        batches = ShuffledBatches(
            given.training.examples, phase.batch_examples, seed + 1000 * index, known
        )
        hold_unreached(loss, batches(0), processes.device)
        outcome = tune(
            loss,
            batches,
            tuning_schedule(phase, decay=phase.decay),
            launch,
            processes,
            seed=seed,
            title=f"{given.task['name']} {phase.name} seed {seed}",
            workspace=workspace / f"{index}-{phase.name}",
        )
        seconds += outcome.seconds
    return student, seconds
