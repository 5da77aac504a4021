r"""Distillation on a task: the engine's steps and TextBrewer's, in turns in one process.

    pip install --no-deps --target /tmp/textbrewer textbrewer==0.2.1.post1
    pip install --target /tmp/tensorboard tensorboard
    python -m benchmarks.task_distillation --task-data data/tasks/mrpc \
        --model models/teacher_source --beside /tmp/textbrewer /tmp/tensorboard

Both teach a BERT of half the teacher's layers by labels and soft targets at T = 8, from the same
batches, with AdamW and a clipped gradient. TextBrewer needs tensorboard; both are looked for after
the environment's own packages. Prints tokens a second, real tokens only, and the ratio of turns.
"""

import argparse
import copy
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.contest import CLOCKS, add_clock
from stages.command import parser_for
from stages.evaluation.classifier import open_classifier
from stages.evaluation.examples import ShuffledBatches, read_examples
from stages.evaluation.task_distillation import TaskDistillation
from stages.files import read_json
from stages.params import Launch, Schedule, TaskPhase
from stages.training.batches import Batch, num_tokens
from stages.training.loop import train
from stages.training.processes import Processes

ALONE = Processes(0, 1, torch.device("cpu"))
TEMPERATURE, RATE = 8.0, 1e-4


class Marks:
    """Batches of a turn, with the moment each was asked for."""

    def __init__(
        self, batches: Callable[[int], Batch], first: int, number: int, clock: Callable[[], float]
    ) -> None:
        self.batches, self.first, self.number, self.clock = batches, first, number, clock
        self.moments: list[float] = []
        self.tokens: list[int] = []

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step of this turn."""
        batch = self.batches(self.first + step)
        self.moments.append(self.clock())
        self.tokens.append(num_tokens(batch))
        return batch

    def __iter__(self) -> Iterator[Batch]:
        """Yield the same, as a data loader does."""
        return (self(step) for step in range(self.number))

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.number

    def rate(self) -> float:
        """Return tokens a second of all steps but the last, whose end is not seen."""
        return sum(self.tokens[:-1]) / (self.moments[-1] - self.moments[0])


def engine(student: nn.Module, teacher: nn.Module, marks: Marks) -> None:
    """Train with the engine's loop."""
    phase = TaskPhase(
        name="kd", labels=1.0, soft_targets=1.0, temperature=TEMPERATURE,
        num_epochs=1, learning_rate=RATE,
    )  # fmt: skip
    loss = TaskDistillation(student, teacher, phase, [], nn.ModuleDict(), kind="classification")
    size = len(marks.batches(0)["labels"])
    schedule = Schedule(
        num_steps=marks.number, batch_sequences=size, learning_rate=RATE, warmup_fraction=0.1,
        max_grad_norm=1.0,
    )  # fmt: skip
    launch = Launch(micro_batch_sequences=size)
    train(
        loss, marks, schedule, marks.number, launch, ALONE,
        seed=0, workspace=None, title="engine",
    )  # fmt: skip


def textbrewer(student: nn.Module, teacher: nn.Module, marks: Marks) -> None:
    """Train with TextBrewer, as its own examples do."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    def adaptor(_: Any, output: Any) -> dict[str, Any]:
        return {"logits": output.logits, "losses": output.loss}

    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(
            device="cpu", log_dir=folder, output_dir=folder, ckpt_steps=marks.number
        )
        distillation = DistillationConfig(temperature=TEMPERATURE, hard_label_weight=1.0)
        brewer = GeneralDistiller(training, distillation, teacher, student, adaptor, adaptor)
        # As a context it gives nothing, and puts the student into training mode.
        with brewer:
            optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
            brewer.train(optimizer, marks, num_steps=marks.number, max_grad_norm=1.0)


def main(arguments: argparse.Namespace) -> None:
    """Measure and print."""
    logging.disable(logging.INFO)
    sys.path.extend(str(path) for path in arguments.beside)
    task = read_json(arguments.task_data / "task.json")
    tokenizer = arguments.model / "tokenizer.json"
    examples = read_examples(arguments.task_data, "train", tokenizer, 128, None)
    batches = ShuffledBatches(examples, arguments.batch, 0)
    teacher = open_classifier(arguments.model, task["labels"], 0.1, 1).eval()
    config = BertConfig(**teacher.config.to_dict())
    config.num_hidden_layers //= 2
    student = BertForSequenceClassification(config)
    ways = {"engine": engine, "textbrewer": textbrewer}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(arguments.rounds):
        for way, run in ways.items():
            marks = Marks(batches, turn * arguments.steps, arguments.steps, CLOCKS[arguments.clock])
            pair = copy.deepcopy(student).train(), copy.deepcopy(teacher)
            run(*pair, marks)
            rates[way].append(marks.rate())
    print(
        f"{task['title']}: {arguments.batch} examples a step, {teacher.config.num_hidden_layers}"
        f" to {config.num_hidden_layers} layers of {config.hidden_size}"
    )
    for way, found in rates.items():
        print(
            f"{way:12}{statistics.median(found):8.0f} tokens/s  of turns: "
            + ", ".join(f"{rate:.0f}" for rate in found)
        )
    ratios = [mine / theirs for mine, theirs in zip(*rates.values(), strict=True)]
    print(f"engine: {statistics.median(ratios):.2f} times TextBrewer's (median of turns)")


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_for(__doc__)
    parser.add_argument("--task-data", type=Path, required=True, metavar="PATH")
    parser.add_argument("--model", type=Path, required=True, metavar="PATH", help="the teacher")
    parser.add_argument("--beside", type=Path, nargs="*", default=[], help="folders of packages")
    parser.add_argument("--batch", type=int, default=32, help="examples a step (default 32)")
    parser.add_argument("--steps", type=int, default=8, help="in each turn (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    add_clock(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
