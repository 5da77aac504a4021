"""What a step of every recipe costs, and the `scale_steps` that give all students equal time.

    python -m benchmarks.equal_time --teacher models/teacher --shards data/shards --write FILE

Takes a few steps of every phase of every student in params.yaml, recipes in turns, in one process,
and says what its whole training would take. With --write, settings in which every student takes the
time of one of them (--like) are written to a file; `dvc repro` then trains them.
"""

import argparse
import logging
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel

from benchmarks.contest import CLOCKS
from benchmarks.quality import parser_of_corpora
from stages import params
from stages.corpus.reading import Sequences, open_split
from stages.distillation.phases import (
    batches_of,
    hold_unreached,
    phase_losses,
    rate_factors,
    stretches,
)
from stages.files import write_text
from stages.params import TEACHER, Params
from stages.students.building import build
from stages.teacher.models import open_teacher
from stages.training.batches import Batch, MaskedBatches
from stages.training.frozen_teacher import FrozenTeacher
from stages.training.loop import train
from stages.training.processes import Processes

Clock = Callable[[], float]
ALONE = Processes(0, 1, torch.device("cpu"))
STEPS = 5
"""Steps of a phase in a round; the first and the last are not counted."""


class Stamped:
    """Batches that note when each is asked for: from one to the next is a step."""

    def __init__(self, batches: MaskedBatches, clock: Clock) -> None:
        self.batches, self.clock = batches, clock
        self.stamps: list[float] = []

    def __call__(self, step: int) -> Batch:
        """Return a step's batch."""
        self.stamps.append(self.clock())
        return self.batches(step)

    def seconds(self) -> list[float]:
        """Return what every step but the first and the last took."""
        return [b - a for a, b in zip(self.stamps[1:-1], self.stamps[2:], strict=True)]


def one_round(
    settings: Params, teacher: PreTrainedModel, sequences: Sequences, clock: Clock
) -> Iterator[tuple[str, int, int, list[float]]]:
    """Yield student, index of the stretch, its number of steps, and the seconds of some steps."""
    built: dict[str, PreTrainedModel] = {TEACHER: teacher}
    for name, recipe in settings.recipes.items():
        taught_by = [built[each] for each in recipe.taught_by]
        dropout = settings.distill.dropout if recipe.dropout is None else recipe.dropout
        before = built.get(getattr(recipe, "after", ""))
        student = build(taught_by[0], recipe, dropout=dropout, seed=settings.seed, before=before)
        built[name] = student
        layers = student.config.num_hidden_layers
        plan = stretches(recipe, settings.distill, sequences.num_sequences, layers)
        asked = FrozenTeacher(*taught_by)
        losses = phase_losses(
            plan, student, asked, taught_by[0].config, settings.distill, seed=settings.seed
        )
        for index, (stretch, loss) in enumerate(zip(plan, losses, strict=True)):
            source = Stamped(batches_of(stretch, loss, sequences, settings.distill, index), clock)
            factors = rate_factors(loss, stretch.only_layer)
            hold_unreached(loss, source.batches(0), ALONE.device, factors)
            train(
                loss, source, stretch.schedule, STEPS, settings.launch, ALONE,
                seed=index, workspace=None, title=name, rate_factors=factors,
            )  # fmt: skip
            yield name, index, stretch.num_steps, source.seconds()


def main(arguments: argparse.Namespace) -> None:
    """Measure, print, and write settings where they are asked for."""
    logging.disable(logging.INFO)
    settings, clock = params.load(), CLOCKS[arguments.clock]
    teacher, sequences = open_teacher(arguments.teacher), open_split(arguments.shards, "train")
    lengths: dict[tuple[str, int], int] = {}
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for name, index, steps, some in one_round(settings, teacher, sequences, clock):
            lengths[name, index] = steps
            seconds[name, index] += some
    costs = dict.fromkeys(settings.recipes, 0.0)
    for (name, index), some in seconds.items():
        costs[name] += lengths[name, index] * statistics.median(some)
    like = costs[arguments.like]
    print(f"| | a step, ms | its training, s | scale_steps for {like:.0f} s |")
    print("|---|---:|---:|---:|")
    scales = {}
    for name, recipe in settings.recipes.items():
        of = [some for (whose, _), some in seconds.items() if whose == name]
        steps = " and ".join(f"{1000 * statistics.median(some):.0f}" for some in of)
        scales[name] = round(recipe.scale_steps * like / costs[name], 3) if of else 1.0
        print(f"| {name} | {steps} | {costs[name]:.0f} | {scales[name]:.3f} |")
    if arguments.write:
        write_text(arguments.write, scaled(settings, scales))


def scaled(settings: Params, scales: dict[str, float]) -> str:
    """Return settings, as YAML, in which every student has this `scale_steps`."""
    values = yaml.safe_load(params.PARAMS.read_text(encoding="utf-8"))
    for name, recipe in settings.recipes.items():
        kind = "successors" if name in (values.get("successors") or {}) else "students"
        whole = recipe.model_dump(mode="json", exclude_unset=True)
        values[kind][name] = whole | {"scale_steps": scales[name]}
    return yaml.safe_dump(values, sort_keys=False)


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_of_corpora(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of all recipes (default 3)")
    parser.add_argument("--like", default="distilbert", help="whose time all students get")
    parser.add_argument("--write", type=Path, metavar="PATH", help="write such settings to a file")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
