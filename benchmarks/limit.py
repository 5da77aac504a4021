"""The matrix-multiply limit of a distillation step: its products alone, at their real shapes.

Whatever else a step does (softmax, dropout, optimiser, bookkeeping) is the engine's to make small;
the products are what the mathematics demands. They are timed here with their outputs already
allocated, in the layouts that the step meets, each the best of several.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from stages.objectives.vocabulary_logits import ALIGNED_COLUMNS
from stages.training.products import float32_on_onednn


@dataclass(frozen=True, slots=True)
class Shape:
    """A teacher, its student and a batch."""

    teacher_layers: int
    student_layers: int
    width: int
    inner: int
    heads: int
    vocabulary: int
    batch: int
    length: int

    @property
    def num_tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch * self.length


@dataclass(frozen=True, slots=True)
class Limit:
    """What the products of one step take, and how many operations they are."""

    seconds: float
    flops: float


class Products:
    """The products of one step; `measure` may be called again and again, and keeps the best."""

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        device: torch.device,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        n, d, i, v = shape.num_tokens, shape.width, shape.inner, shape.vocabulary
        if device.type == "cuda":
            # The padding is part of reaching the limit, and not of its operations.
            v = -(-v // ALIGNED_COLUMNS) * ALIGNED_COLUMNS
        both, learnt = shape.teacher_layers + shape.student_layers, shape.student_layers
        linear = partial(_linear, dtype=dtype, device=device)
        sequences = (shape.batch * shape.heads, shape.length, d // shape.heads)
        attention = partial(_attention, *sequences, dtype=dtype, device=device)
        self.device, self.clock = device, clock
        # (how many of it a step has, floating-point operations of one, the call)
        self.products: list[tuple[int, float, Callable[[], object]]] = []
        for rows, columns, inner, forward, backward in (
            (n, d, d, 4 * both + 2, 4 * learnt + 1),  # query, key, value, output; head transform
            (n, i, d, both, learnt),
            (n, d, i, both, learnt),
            (n, v, d, 2, 1),
        ):
            products = linear(rows, columns, inner)
            flops = 2.0 * rows * (shape.vocabulary if columns == v else columns) * inner
            for count, call in zip((forward, backward, backward), products, strict=True):
                self.products.append((count, flops, call))
        scores, mix = attention()
        flops = 2.0 * n * shape.length * d
        # Forward: scores and mix. Backward: two products for each of them, of the same sizes.
        self.products += [(both + 2 * learnt, flops, scores), (both + 2 * learnt, flops, mix)]
        self.best = [float("inf")] * len(self.products)

    def measure(self, rounds: int) -> Limit:
        """Time every product `rounds` times and return the sum of the best seen so far.

        On a CPU with either of the libraries that PyTorch brings: the limit is the machine's.
        """
        for library in (nullcontext(), float32_on_onednn(self.device)):
            with library:
                for index, (_, _, call) in enumerate(self.products):
                    for _ in range(rounds):
                        self.best[index] = min(self.best[index], self._seconds(call))
        counts = [count for count, _, _ in self.products]
        return Limit(
            seconds=sum(n * best for n, best in zip(counts, self.best, strict=True)),
            flops=sum(n * flops for n, flops, _ in self.products),
        )

    def _seconds(self, call: Callable[[], object]) -> float:
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1000
        begun = self.clock()
        call()
        return self.clock() - begun


def _linear(
    rows: int, columns: int, inner: int, *, dtype: torch.dtype, device: torch.device
) -> list[Callable[[], Tensor]]:
    """Return a linear layer's forward, its gradient of the input, and that of the weight."""
    x, weight, gradient = (
        torch.randn(shape, dtype=dtype, device=device)
        for shape in ((rows, inner), (columns, inner), (rows, columns))
    )
    # The largest arrays are vocabulary-sized: inputs and outputs of the three share their memory.
    out_x, out_weight = torch.empty_like(x), torch.empty_like(weight)
    return [
        partial(torch.mm, x, weight.T, out=gradient),
        partial(torch.mm, gradient, weight, out=out_x),
        partial(torch.mm, gradient.T, x, out=out_weight),
    ]


def _attention(
    sequences: int, length: int, width: int, *, dtype: torch.dtype, device: torch.device
) -> list[Callable[[], Tensor]]:
    """Return the products of attention: queries with keys, and probabilities with values."""
    query, key = (
        torch.randn(sequences, length, width, dtype=dtype, device=device) for _ in range(2)
    )
    scores = torch.empty(sequences, length, length, dtype=dtype, device=device)
    out = torch.empty_like(query)
    return [partial(torch.bmm, query, key.mT, out=scores), partial(torch.bmm, scores, key, out=out)]
