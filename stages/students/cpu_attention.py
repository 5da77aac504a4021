"""Attention of whole sequences on a CPU: cheap dropout, and nothing of size S x S kept.

PyTorch's fused attention has no dropout on CPUs and falls back to a slow form; without dropout it
multiplies in tiles that the library which trains here (stages/training/products.py) is slow at.
Here a product takes some heads at a time, whose scores stay in the cache from the first product to
the last. The backward pass forms them again, as flash attention does (Dao et al. 2022, arXiv
2205.14135), and draws the same dropout from the same seed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_SCORES = 2**18
"""Scores that exist at one time: 1 MB in float32. Decides which are dropped, too."""
DRAW = 16
"""Bits that decide on one score: four to a number of the generator, whose numbers are dear."""


# Compiled, its products into views of a buffer are refused; there is nothing to gain in it.
@torch.compiler.disable
def attend_whole(
    query_BHSd: Tensor,
    key_BHSd: Tensor,
    value_BHSd: Tensor,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Tensor:
    """Return softmax(scaling x query key^T) value, B x H x S x d, without a mask.

    Args:
        query_BHSd: Queries, on a CPU.
        key_BHSd: Keys.
        value_BHSd: Values.
        dropout: Share of the probabilities to drop, taken to the nearest 1 / 65,536. The seed of
            what is dropped is drawn from PyTorch's random state.
        scaling: None is 1 / sqrt(d).
    """
    if scaling is None:
        scaling = query_BHSd.shape[-1] ** -0.5
    attended: Tensor = _Attention.apply(query_BHSd, key_BHSd, value_BHSd, dropout, scaling)
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scaling, ctx.dropped = scaling, round(dropout * 2**DRAW)
        ctx.seed = int(torch.randint(2**62, ())) if ctx.dropped else 0
        scores = _Scores(query, key, value, scaling, ctx.dropped, ctx.seed)
        out = torch.empty_like(scores.value)
        for heads, probabilities, kept in scores:
            if kept is not None:
                probabilities.mul_(kept)
            torch.bmm(probabilities, scores.value[heads], out=out[heads])
        return out.view(value.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        scores = _Scores(query, key, value, ctx.scaling, ctx.dropped, ctx.seed)
        grad_out = grad_out.reshape(scores.value.shape)
        grad_query, grad_key = torch.empty_like(scores.query), torch.empty_like(scores.key)
        grad_value = torch.empty_like(scores.value)
        memory = torch.empty_like(scores.memory)
        for heads, probabilities, kept in scores:
            grad = memory[: len(probabilities)]
            torch.bmm(grad_out[heads], scores.value[heads].mT, out=grad)
            if kept is not None:
                grad.mul_(kept)
            torch._softmax_backward_data(grad, probabilities, -1, grad.dtype, grad_input=grad)
            torch.bmm(grad, scores.key[heads], out=grad_query[heads])
            torch.bmm(grad.mT, scores.query[heads], out=grad_key[heads])
            if kept is not None:
                probabilities.mul_(kept)
            torch.bmm(probabilities.mT, grad_out[heads], out=grad_value[heads])
        grad_query.mul_(ctx.scaling)
        grad_value.mul_(scores.boost)
        grad_query, grad_key = grad_query.view(query.shape), grad_key.view(key.shape)
        return grad_query, grad_key, grad_value.view(value.shape), None, None


class _Scores:
    """One pass over the probabilities of all sequences' heads, some at a time.

    Queries come out scaled, and values multiplied by what makes up for those dropped.
    """

    def __init__(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, dropped: int, seed: int
    ) -> None:
        length = query.shape[2]
        self.boost = 2**DRAW / (2**DRAW - dropped)
        self.query, self.key, self.value = (
            _heads_first(states, factor)
            for states, factor in ((query, scaling), (key, 1.0), (value, self.boost))
        )
        self.num_at_once = max(1, min(CHUNK_SCORES // length**2, len(self.query)))
        self.memory = query.new_empty(self.num_at_once, length, length)
        self.generator = torch.Generator().manual_seed(seed)
        # Of numbers that begin at -2^15.
        self.first_kept = dropped - 2 ** (DRAW - 1) if dropped else None
        if dropped:
            self.draws = torch.empty(-(-self.memory.numel() * DRAW // 64), dtype=torch.int64)
            self.kept = torch.empty_like(self.memory)

    def __iter__(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """Yield some heads, their probabilities, and 1 for those kept; valid until the next."""
        for start in range(0, len(self.query), self.num_at_once):
            heads = slice(start, start + self.num_at_once)
            probabilities = self.memory[: len(self.query[heads])]
            torch.bmm(self.query[heads], self.key[heads].mT, out=probabilities)
            torch.softmax(probabilities, -1, out=probabilities)
            yield heads, probabilities, self._kept(probabilities)

    def _kept(self, like: Tensor) -> Tensor | None:
        if self.first_kept is None:
            return None
        self.draws.random_(-(2**63), None, generator=self.generator)
        drawn = self.draws.view(torch.int16)[: like.numel()].view_as(like)
        # Compared into 0 and 1 of the type they multiply: a product with bool costs ten times that.
        return torch.ge(drawn, self.first_kept, out=self.kept[: len(like)])


def _heads_first(states_BHSd: Tensor, factor: float) -> Tensor:
    """Return states times a factor as one row of heads, BH x S x d; they are read in that order."""
    batch, heads, length, width = states_BHSd.shape
    out = states_BHSd.new_empty(batch * heads, length, width)
    torch.mul(states_BHSd, factor, out=out.view(states_BHSd.shape))
    return out
