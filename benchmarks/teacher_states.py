"""What keeping the teacher's states saves the next student that sees the same batches.

    python -m benchmarks.teacher_states                            # 6x384 to 3 layers
    python -m benchmarks.teacher_states --shape base --batch 8     # BERT-base to DistilBERT

The engine's step in three ways that take turns in one process: the teacher is asked, it is asked
and its states are written, and they are read. Prints the seconds of a step, and what they take.
"""

import argparse
import itertools
import logging
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.contest import (
    CLOCKS,
    MODELS,
    TEMPERATURE,
    WEIGHTS,
    add_clock,
    parser_of_steps,
    random_teacher,
    sequences,
    shape_of,
)
from stages.distillation.phases import phase_losses, stretches
from stages.params import Distill, Launch, Student
from stages.students.building import build
from stages.training.batches import Batch, MaskedBatches
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.loop import train
from stages.training.processes import Processes
from stages.training.teacher_states import TeacherStates, bytes_of_states

ALONE = Processes(0, 1, torch.device("cpu"))
ROOM = 10**11


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    logging.disable(logging.INFO)
    shape, num_steps = shape_of(arguments), arguments.steps
    teacher = random_teacher(shape)
    recipe = Student(teacher_layers=MODELS[arguments.shape]["student"], weights=WEIGHTS).recipe()
    settings = Distill.model_validate(
        {
            "temperature": TEMPERATURE,
            "positions": arguments.positions,
            "heldout_sequences": 128,
            "schedule": {
                "num_steps": num_steps,
                "batch_sequences": shape.batch,
                "learning_rate": 5e-4,
                "warmup_fraction": 0.05,
            },
        }
    )
    student = build(teacher, recipe, dropout=settings.dropout, seed=0)
    rows = sequences(shape)
    plan = stretches(recipe, settings, rows.num_sequences, shape.student_layers)
    frozen = FrozenTeacher(teacher, narrow=arguments.teacher_precision == "bfloat16")
    (loss,) = phase_losses(plan, student, frozen, teacher.config, settings, seed=0)
    batches = MaskedBatches(rows, shape.batch, 0, settings.masking, settings.sampled_fraction)
    clock = CLOCKS[arguments.clock]

    def steps(states: TeacherStates | None) -> list[float]:
        """Return the seconds of all steps of a short training but the first."""
        moments: list[float] = []

        def timed(step: int) -> Batch:
            moments.append(clock())
            return batches(step)

        loss.states = states
        train(
            loss, timed, settings.schedule, num_steps,
            Launch(micro_batch_sequences=shape.batch), ALONE,
            seed=0, workspace=None, title="states",
        )  # fmt: skip
        moments.append(clock())
        return [after - before for before, after in itertools.pairwise(moments[1:])]

    seconds: dict[str, list[float]] = {"asked": [], "written": [], "read": []}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for number in range(arguments.rounds):
            place = Path(folder) / str(number)
            for way in seconds:
                states = None if way == "asked" else TeacherStates(place, "", ROOM)
                seconds[way] += steps(states)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"{shape}, {arguments.positions}, teacher {arguments.teacher_precision}")
    for way, median in medians.items():
        print(
            f"{way:10}{median:8.3f} s/step{shape.num_tokens / median:8.0f} tokens/s"
            f"{medians['asked'] / median:7.2f} times"
        )
    print(f"{bytes_of_states(1, shape.width)} bytes a token")


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_of_steps(__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of all three ways (default 2)")
    parser.add_argument("--steps", type=int, default=4, help="in each turn (default 4)")
    parser.add_argument("--positions", choices=("all", "masked", "sampled"), default="all")
    parser.add_argument("--teacher-precision", choices=("schedule", "bfloat16"), default="schedule")
    add_clock(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
