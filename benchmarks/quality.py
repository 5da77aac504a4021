"""Time to quality: the published step for some minutes, then the engine in a share of that time.

    python -m benchmarks.quality --teacher models/teacher --shards data/shards --minutes 20

All start from the same student and see the same corpus; each plans its steps, and with them its
learning rate, from its own speed. What counts is the held-out divergence from the teacher (nats a
token, T = 1). The engine may use whatever it offers: precision, positions, batch, learning rate,
dropout, weights, temperature; of positions and precisions, every pair of those given has a turn of
the same length. With --out every student is kept, so that task scores can be asked as well.
"""

import argparse
import copy
import itertools
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.contest import CLOCKS, TEMPERATURE, WEIGHTS, add_clock
from benchmarks.published_step import PublishedStep
from stages.command import parser_for
from stages.corpus.reading import open_split
from stages.params import Launch, Masking, Schedule, Weights
from stages.students.distilbert import build_student
from stages.teacher.models import open_teacher, save_model
from stages.training.batches import MaskedBatches
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.heldout import measure_heldout
from stages.training.loop import train
from stages.training.processes import Processes
from stages.training.triple_loss import TripleLoss

TRIAL_STEPS = 3
"""Steps taken on a copy to learn how long one takes; the first is not counted."""


class Race:
    """One corpus, one teacher, one student to start from."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.device = arguments, torch.device(arguments.device)
        self.clock = CLOCKS[arguments.clock]
        self.teacher = open_teacher(arguments.teacher).to(self.device)
        self.layers = [int(layer) for layer in arguments.layers.split(",")]
        self.student = build_student(self.teacher, self.layers).to(self.device)
        self.sequences = open_split(arguments.shards, "train")
        self.heldout = MaskedBatches(open_split(arguments.shards, "heldout"), 16, 0, Masking())

    def divergence(self, student: torch.nn.Module, *, narrow: bool = False) -> float:
        """Return the held-out KL of a student from the teacher, in nats a token."""
        batches = self.heldout.fixed(self.arguments.heldout)
        return measure_heldout(student, FrozenTeacher(self.teacher, narrow=narrow), batches)["kl"]

    def published(self, num_steps: int) -> tuple[torch.nn.Module, float]:
        """Return a student after some published steps, and the seconds of all but the first."""
        student = copy.deepcopy(self.student)
        student.tie_weights()
        schedule = self.schedule(num_steps, self.arguments.batch, 5e-4, "float32")
        step = PublishedStep(student, self.teacher, WEIGHTS, schedule, num_steps, TEMPERATURE)
        batches = MaskedBatches(self.sequences, self.arguments.batch, 0, Masking())
        begun = self.clock()
        for number in range(num_steps):
            if number == 1:
                begun = self.clock()
            step({k: v.to(self.device) for k, v in batches(number).items()})
        return student, self.clock() - begun

    def engine(
        self, num_steps: int, *, positions: str, precision: str
    ) -> tuple[torch.nn.Module, float]:
        """Return a student after some of the engine's steps, and the seconds they took."""
        given = self.arguments
        student = build_student(self.teacher, self.layers, dropout=given.dropout).to(self.device)
        ce, mlm, cos = given.weights
        objective = TripleLoss(
            student,
            FrozenTeacher(self.teacher, narrow=given.teacher_precision == "bfloat16"),
            Weights(ce=ce, mlm=mlm, cos=cos),
            temperature=given.temperature,
            positions=positions,
        )
        begun = self.clock()
        train(
            objective,
            MaskedBatches(self.sequences, given.engine_batch, 0, Masking(), given.sampled_fraction),
            self.schedule(num_steps, given.engine_batch, given.learning_rate, precision),
            num_steps,
            Launch(micro_batch_sequences=given.engine_batch),
            Processes(0, 1, self.device),
            seed=0,
            workspace=None,
            title="engine",
        )
        return student, self.clock() - begun

    def schedule(self, num_steps: int, batch: int, rate: float, precision: str) -> Schedule:
        """Return a schedule that warms up and falls to zero at its last step."""
        return Schedule(
            num_steps=num_steps,
            batch_sequences=batch,
            learning_rate=rate,
            warmup_fraction=0.05,
            precision=precision,
        )


def main(arguments: argparse.Namespace) -> None:
    """Run all and say how long each took to come how near."""
    logging.disable(logging.INFO)
    race = Race(arguments)
    print(f"before training: held-out KL {race.divergence(race.student):.4f}", flush=True)
    if arguments.teacher_precision == "bfloat16":
        rounded = race.divergence(race.teacher, narrow=True)
        print(f"the teacher from itself in bfloat16: {rounded:.6f}", flush=True)
    budget = 60 * arguments.minutes
    runs: list[tuple[str, Callable[[int], tuple[torch.nn.Module, float]], float, int]] = [
        ("published", race.published, budget, TRIAL_STEPS - 1)
    ]
    for positions, precision in itertools.product(arguments.positions, arguments.precision):
        engine = partial(race.engine, positions=positions, precision=precision)
        name = f"engine, {positions}, {precision}"
        runs.append((name, engine, budget * arguments.share, TRIAL_STEPS))
    for name, run, seconds, trial_steps in runs:
        _, trial = run(TRIAL_STEPS)
        num_steps = max(1, round(seconds * trial_steps / trial))
        begun = race.clock()
        student, _ = run(num_steps)
        took = race.clock() - begun
        print(
            f"{name}: {num_steps} steps in {took:.0f} s ({took / budget:.2f} of {budget:.0f} s), "
            f"held-out KL {race.divergence(student):.4f}",
            flush=True,
        )
        if arguments.out:
            save_model(student, arguments.teacher, arguments.out / name.replace(", ", "-"))


def parser_of_corpora(module_doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that asks for a teacher, shards and what counts time."""
    parser = parser_for(module_doc, ["teacher", "shards"])
    add_clock(parser)
    return parser


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_of_corpora(__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="of the published step")
    parser.add_argument("--share", type=float, default=0.25, help="of that time, for the engine")
    parser.add_argument("--layers", default="0,2,5", help="of the teacher (default 0,2,5)")
    parser.add_argument("--batch", type=int, default=8, help="sequences a published step")
    parser.add_argument("--engine-batch", type=int, default=8, help="sequences an engine step")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="of the engine")
    parser.add_argument("--dropout", type=float, default=0.1, help="of the engine's student")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE, help="of the engine")
    parser.add_argument(
        "--weights", type=float, nargs=3, default=[5, 2, 1], metavar=("CE", "MLM", "COS"),
        help="of the engine",
    )  # fmt: skip
    parser.add_argument(
        "--positions", nargs="+", choices=("all", "masked", "sampled"), default=["sampled"]
    )
    parser.add_argument("--sampled-fraction", type=float, default=0.1)
    parser.add_argument(
        "--precision", nargs="+", choices=("float32", "bfloat16"), default=["bfloat16"]
    )
    parser.add_argument("--teacher-precision", choices=("schedule", "bfloat16"), default="schedule")
    parser.add_argument("--out", type=Path, metavar="PATH", help="keep the students in this folder")
    parser.add_argument("--heldout", type=int, default=128, help="held-out sequences")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
