"""What training one student, or adapting the teacher, will take."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel

from stages.distillation.phases import phase_losses, stretches
from stages.errors import SettingsError
from stages.params import TEACHER, Params, Recipe, Schedule, Weights
from stages.plan.memory import Memory, memory_of
from stages.plan.sharing import Sharing, sharing_of
from stages.students.building import build
from stages.students.heads import num_parameters
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.teacher_states import bytes_of_states
from stages.training.triple_loss import TripleLoss
from stages.training.work import Asked, Work, asked_by, work_per_token


@dataclass(frozen=True, slots=True)
class Plan:
    """What one model's training will take."""

    name: str
    phase: str
    """What it is a part of: `student, phase` of a progressive phase, else its own name."""
    num_parameters: int
    num_steps: int
    num_tokens: int
    work_per_token: Work
    memory: Memory
    teacher_states: int
    """Bytes on the disk if the teacher's last hidden states are kept; 0 where it is asked more."""
    sharing: Sharing

    @property
    def flops(self) -> float:
        """Return the operations of the whole run."""
        return self.work_per_token.total * self.num_tokens

    def hours(self, flops_per_second: float) -> float:
        """Return the hours of the whole run at some rate of all devices together."""
        return self.flops / flops_per_second / 3600

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values, sums included."""
        return asdict(self) | {
            "flops": self.flops,
            "flops_per_token": self.work_per_token.total,
            "memory_bytes": self.memory.total,
        }


def together(parts: Sequence[Plan]) -> Plan:
    """Return the stretches of one phase, one for each layer, as one plan; memory is the most."""
    num_tokens = sum(part.num_tokens for part in parts)
    works = [(part.num_tokens / num_tokens, asdict(part.work_per_token)) for part in parts]
    mean = {name: sum(share * work[name] for share, work in works) for name in works[0][1]}
    return replace(
        parts[0],
        name=parts[0].phase,
        num_steps=sum(part.num_steps for part in parts),
        num_tokens=num_tokens,
        work_per_token=Work(**mean),
        memory=max((part.memory for part in parts), key=lambda memory: memory.total),
        teacher_states=sum(part.teacher_states for part in parts),
    )


def plans(
    params: Params, teacher: PretrainedConfig, num_sequences: int | None, num_processes: int
) -> list[Plan]:
    """Return a plan for every teacher's adaptation, if there is one, and for each student.

    Args:
        params: The settings.
        teacher: The teacher's configuration.
        num_sequences: Of the corpus; needed where a schedule counts epochs.
        num_processes: That share a step.

    Raises:
        SettingsError: a schedule needs the size of the corpus, or there are too many processes.
    """
    with torch.device("meta"):
        taught_by = AutoModelForMaskedLM.from_config(teacher)
    found = []
    if params.teacher.adapt is not None:
        loss = TripleLoss(taught_by, None, Weights(ce=0, mlm=1, cos=0))
        asked = asked_by(loss, False, params.teacher.masking)
        steps = _steps("teacher", params.teacher.adapt, num_sequences)
        # Those beside the teacher are counted as large as it is.
        found += [
            _plan(
                taught_by, [], params, num_processes,
                name=name, phase=name, schedule=params.teacher.adapt, num_steps=steps, asked=asked,
            )
            for name in ("teacher", *(f"teacher-{other}" for other in params.teacher.others))
        ]  # fmt: skip
    models = dict.fromkeys((TEACHER, *params.teacher.others), taught_by)
    for name, recipe in params.recipes.items():
        with torch.device("meta"):
            models[name] = build(
                models[recipe.taught_by[0]],
                recipe,
                dropout=params.distill.dropout,
                seed=0,
                before=models.get(getattr(recipe, "after", "")),
            )
        teachers = [models[other] for other in recipe.taught_by]
        found += _student_plans(
            name, recipe, params, models[name], teachers, num_sequences, num_processes
        )
    return found


def _student_plans(
    name: str,
    recipe: Recipe,
    params: Params,
    student: PreTrainedModel,
    teachers: list[PreTrainedModel],
    num_sequences: int | None,
    num_processes: int,
) -> list[Plan]:
    """Return a plan for each of the student's phases."""
    for phase in recipe.phases:
        _steps(name, phase.schedule or params.distill.schedule, num_sequences)
    parts = stretches(recipe, params.distill, num_sequences or 0, student.config.num_hidden_layers)
    losses = phase_losses(
        parts, student, FrozenTeacher(*teachers), teachers[0].config, params.distill, seed=0
    )
    found = []
    for part, loss in zip(parts, losses, strict=True):
        alone = len(parts) == 1
        found.append(
            _plan(
                student, teachers if loss.teacher is not None else [], params, num_processes,
                name=name if alone else f"{name}, {part.name}",
                phase=name if alone else f"{name}, {part.phase.name}",
                schedule=part.schedule, num_steps=part.num_steps,
                asked=loss.asked(part.masking, params.distill.sampled_fraction),
                keeps_states=loss.reads_last_states_alone,
            )
        )  # fmt: skip
    return found


def _steps(name: str, schedule: Schedule, num_sequences: int | None) -> int:
    if schedule.num_steps is None and num_sequences is None:
        raise SettingsError(
            f"{name} is trained for {schedule.num_epochs:g} epochs and the shards are not here: "
            "give --corpus-tokens"
        )
    return schedule.total_steps(num_sequences or 0)


def _plan(
    model: PreTrainedModel,
    teachers: list[PreTrainedModel],
    params: Params,
    num_processes: int,
    *,
    name: str,
    phase: str,
    schedule: Schedule,
    num_steps: int,
    asked: Asked,
    keeps_states: bool = False,
) -> Plan:
    """Return the plan of one call of the loop."""
    length = params.corpus.shards.sequence_length
    tokens_per_step = schedule.batch_sequences * length
    num_tokens = num_steps * tokens_per_step
    sharing = sharing_of(schedule, params.launch, num_processes)
    return Plan(
        name=name,
        phase=phase,
        num_parameters=num_parameters(model),
        num_steps=num_steps,
        num_tokens=num_tokens,
        work_per_token=work_per_token(
            model.config,
            [teacher.config for teacher in teachers],
            asked,
            sequence_length=length,
            num_parameters=num_parameters(model),
            tokens_per_step=tokens_per_step,
        ),
        memory=memory_of(
            model,
            teachers,
            micro_batch=min(params.launch.micro_batch_sequences, sharing.largest),
            sequence_length=length,
            precision=schedule.precision,
            num_processes=num_processes,
        ),
        teacher_states=(
            bytes_of_states(num_tokens, teachers[0].config.hidden_size) if keeps_states else 0
        ),
        sharing=sharing,
    )
