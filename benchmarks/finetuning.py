"""Fine-tuning steps and an evaluation pass, padded and unpadded, interleaved in one process.

Four ways to train on the same examples: batches at random or of neighbours in length, padded to
their longest or not padded at all. Prints tokens per second (real tokens only), the share of
padding, and what an epoch would take.

    python -m benchmarks.finetuning --teacher models/teacher_source --hub ../shared/data/hub
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stages import params
from stages.evaluation.classifier import logits_of, open_classifier
from stages.evaluation.examples import Examples, read_examples
from stages.evaluation.prepare import read_glue, write_task
from stages.evaluation.tasks import get_task
from stages.params import Schedule
from stages.training.batches import Batch
from stages.training.optimisation import make_optimizer

BATCH = 32
POOL = 16
"""Batches that are sorted by length together, where they are."""


def padded(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Return the stock model's logits."""
    names = ("input_ids", "attention_mask", "token_type_ids")
    return model(**{name: batch[name] for name in names}).logits


def at_random(examples: Examples, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(len(examples))
    yield from np.array_split(order, len(order) // BATCH)


def by_length(examples: Examples, rng: np.random.Generator) -> Iterator[np.ndarray]:
    lengths = np.array([len(ids) for ids in examples.ids])
    order = rng.permutation(len(examples))
    pools = np.array_split(order, max(1, len(order) // (BATCH * POOL)))
    batches = [
        batch
        for pool in pools
        for batch in np.array_split(pool[np.argsort(lengths[pool])], len(pool) // BATCH)
    ]
    yield from (batches[i] for i in rng.permutation(len(batches)))


WAYS = {
    f"{order.__name__}, {name}": (order, forward)
    for order in (at_random, by_length)
    for name, forward in (("padded", padded), ("unpadded", logits_of))
}


class Way:
    """One way to train: its own model, optimiser and batches, and what it has measured."""

    def __init__(self, name: str, teacher: Path, examples: Examples, labels: list[str]) -> None:
        self.order, self.forward = WAYS[name]
        self.model = open_classifier(teacher, labels, 0.1, 1).train()
        self.optimizer = make_optimizer(
            self.model,
            Schedule(
                num_steps=1,
                batch_sequences=BATCH,
                learning_rate=5e-5,
                warmup_fraction=0,
                weight_decay=0.01,
            ),
        )
        self.examples = examples
        self.batches = iter(self.order(examples, np.random.default_rng(1)))
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


def compare(task: str, teacher: Path, hub: Path, num_steps: int) -> None:
    settings = params.load(Path("profiles/local-glue.yaml"))
    spec = get_task(task)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / task
        data = read_glue(spec, settings.model_copy(update={"hub_root": hub}))
        write_task(spec, data, "the benchmark's", place)
        training, validation = (
            read_examples(place, split, teacher / "tokenizer.json", 128, None)
            for split in ("train", "validation")
        )
    ways = {name: Way(name, teacher, training, list(spec.labels or ())) for name in WAYS}
    for number in range(num_steps + 2):
        for way in ways.values():
            way.step(counted=number >= 2)
    total = sum(len(ids) for ids in training.ids)
    print(f"{task}: {len(training)} examples, {total / len(training):.1f} tokens each")
    for name, way in ways.items():
        speed = way.tokens / way.seconds
        print(
            f"  {name:22} {speed:7.0f} tokens/s  {1 - way.tokens / way.slots:5.1%} padding  "
            f"{1000 * way.seconds / num_steps:5.0f} ms a step  {total / speed:5.0f} s an epoch"
        )
    sorted_ = np.argsort([len(ids) for ids in validation.ids], kind="stable")
    orders = {"by length": sorted_, "as they come": np.arange(len(validation))}
    for name in ("at_random, padded", "at_random, unpadded"):
        for order, indices in orders.items():
            best = min(evaluate(ways[name], validation, indices) for _ in range(2))
            print(f"  validation {order}, {name.split(', ')[1]}: {best:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--hub", type=Path, default=Path("../shared/data/hub"))
    parser.add_argument("--tasks", nargs="+", default=["cola", "mrpc"])
    parser.add_argument("--steps", type=int, default=16)
    chosen = parser.parse_args()
    for task in chosen.tasks:
        compare(task, chosen.teacher, chosen.hub, chosen.steps)
