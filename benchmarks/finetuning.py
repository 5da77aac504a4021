"""Fine-tuning steps and an evaluation pass, padded and unpadded, interleaved in one process.

Four ways to train on the same examples: batches at random or of neighbours in length, padded to
their longest or not padded at all. Prints tokens per second (real tokens only), the share of
padding, and what an epoch would take.

    python -m benchmarks.finetuning --model models/teacher --tasks data/tasks/cola data/tasks/mrpc
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stages.command import parser_for
from stages.evaluation.classifier import logits_of, open_classifier
from stages.evaluation.examples import Examples, read_examples
from stages.files import read_json
from stages.params import Schedule
from stages.training.batches import Batch
from stages.training.optimisation import make_optimizer

POOL = 16
"""Batches that are sorted by length together, where they are."""
NUM_UNCOUNTED = 2


def padded(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the stock model's logits."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return model(**{name: batch[name] for name in names}).logits


def at_random(examples: Examples, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(len(examples))
    yield from np.array_split(order, len(order) // size)


def by_length(examples: Examples, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    lengths = np.array([len(ids) for ids in examples.ids])
    order = rng.permutation(len(examples))
    pools = np.array_split(order, max(1, len(order) // (size * POOL)))
    batches = [
        batch
        for pool in pools
        for batch in np.array_split(pool[np.argsort(lengths[pool])], len(pool) // size)
    ]
    yield from (batches[i] for i in rng.permutation(len(batches)))


WAYS = {
    f"{order.__name__}, {name}": (order, forward)
    for order in (at_random, by_length)
    for name, forward in (("padded", padded), ("unpadded", logits_of))
}


class Way:
    """One way to train: its own model, optimiser and batches, and what it has measured."""

    def __init__(
        self, name: str, model: Path, examples: Examples, size: int, labels: list[str]
    ) -> None:
        self.order, self.forward = WAYS[name]
        self.model = open_classifier(model, labels, 0.1, 1).train()
        self.optimizer = make_optimizer(
            self.model,
            Schedule(
                num_steps=1,
                batch_sequences=size,
                learning_rate=5e-5,
                warmup_fraction=0,
                weight_decay=0.01,
            ),
        )
        self.examples = examples
        self.batches = iter(self.order(examples, size, np.random.default_rng(1)))
        self.seconds, self.tokens, self.slots = 0.0, 0, 0

    def step(self, *, counted: bool) -> None:
        """Train one step; the first ones are not counted."""
        started = time.perf_counter()
        batch = self.examples.batch(next(self.batches))
        loss = F.cross_entropy(self.forward(self.model, batch), batch["labels"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if counted:
            self.seconds += time.perf_counter() - started
            self.tokens += int(batch["attention_mask"].sum())
            self.slots += batch["attention_mask"].numel()


def evaluate(way: Way, examples: Examples, order: np.ndarray) -> float:
    started = time.perf_counter()
    way.model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            way.forward(way.model, examples.batch(order[start : start + 64]))
    way.model.train()
    return time.perf_counter() - started


def compare(
    place: Path, model: Path, size: int, max_length: int, most: int | None, steps: int
) -> None:
    task = read_json(place / "task.json")
    split = task["validation_splits"][0]
    training, validation = (
        read_examples(place, name, model / "tokenizer.json", max_length, most)
        for name in ("train", split)
    )
    ways = {name: Way(name, model, training, size, task["labels"]) for name in WAYS}
    for number in range(steps + NUM_UNCOUNTED):
        for way in ways.values():
            way.step(counted=number >= NUM_UNCOUNTED)
    total = sum(len(ids) for ids in training.ids)
    print(f"{task['title']}: {len(training)} examples, {total / len(training):.1f} tokens each")
    for name, way in ways.items():
        speed = way.tokens / way.seconds
        print(
            f"  {name:20} {speed:7.0f} tokens/s  {1 - way.tokens / way.slots:5.1%} padding  "
            f"{1000 * way.seconds / steps:5.0f} ms a step  {total / speed:5.0f} s an epoch"
        )
    by_size = np.argsort([len(ids) for ids in validation.ids], kind="stable")
    orders = {"by length": by_size, "as they come": np.arange(len(validation))}
    for order, indices in orders.items():
        for name in ("padded", "unpadded"):
            best = min(evaluate(ways[f"at_random, {name}"], validation, indices) for _ in range(2))
            print(f"  scored {order}, {name}: {best:.2f} s")


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a stock BERT's folder")
    parser.add_argument("--tasks", type=Path, nargs="+", required=True, help="folders of tasks")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--most", type=int, help="examples of a split; the offline profile has 480")
    parser.add_argument("--steps", type=int, default=12)
    chosen = parser.parse_args()
    for place in chosen.tasks:
        compare(place, chosen.model, chosen.batch, chosen.max_length, chosen.most, chosen.steps)
