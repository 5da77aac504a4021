"""Attention of whole sequences on this CPU: PyTorch's against the engine's, forward and backward.

    python -m benchmarks.attention --batch 4 --length 128

Processor time of one thread, the best of several rounds in turns, with float32 products by
PyTorch's default library and by oneDNN (stages/training/products.py). It says why the engine has
an attention of its own.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from stages.command import parser_for
from stages.students.cpu_attention import attend_whole
from stages.training.products import float32_on_onednn

WAYS = {"PyTorch": scaled_dot_product_attention, "engine": attend_whole}
NAMES = {"PyTorch": "dropout_p", "engine": "dropout"}


def forward(attend: Callable[..., Tensor], states: list[Tensor], _: Tensor) -> None:
    """Attend as a teacher does."""
    with torch.no_grad():
        attend(*states)


def both(attend: Callable[..., Tensor], states: list[Tensor], gradient: Tensor) -> None:
    """Attend as a student does, there and back."""
    torch.autograd.grad(attend(*states), states, gradient)


def cases() -> Iterator[tuple[str, str, Callable[..., None], Callable[..., Tensor]]]:
    """Yield what is measured: its name, whose it is, the pass, and the attention."""
    for way, attend in WAYS.items():
        yield "forward", way, forward, attend
        yield "forward, backward", way, both, attend
        yield "with dropout 0.1", way, both, partial(attend, **{NAMES[way]: 0.1})


def main(arguments: argparse.Namespace) -> None:
    """Print milliseconds by pass, by whose attention and by library."""
    torch.set_num_threads(1)
    shape = arguments.batch, arguments.length, arguments.heads, arguments.width
    states = [torch.randn(shape).transpose(1, 2).requires_grad_() for _ in range(3)]
    gradient = torch.randn(shape).transpose(1, 2)
    best: dict[tuple[str, str, str], float] = {}
    for _ in range(arguments.rounds):
        for name, way, run, attend in cases():
            for library in ("default", "oneDNN"):
                inside = float32_on_onednn(torch.device("cpu"))
                with inside if library == "oneDNN" else nullcontext():
                    begun = time.process_time()
                    run(attend, states, gradient)
                    took = time.process_time() - begun
                best[name, way, library] = min(took, best.get((name, way, library), took))
    print(
        f"{'ms':20}" + "".join(f"{w + ', ' + x:>20}" for w in WAYS for x in ("default", "oneDNN"))
    )
    for name in dict.fromkeys(name for name, *_ in best):
        row = (best[name, way, x] for way in WAYS for x in ("default", "oneDNN"))
        print(f"{name:20}" + "".join(f"{1000 * seconds:20.2f}" for seconds in row))


def parsed(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's choices."""
    parser = parser_for(__doc__)
    parser.add_argument("--batch", type=int, default=4, help="sequences (default 4)")
    parser.add_argument("--length", type=int, default=128, help="tokens each (default 128)")
    parser.add_argument("--heads", type=int, default=12, help="(default 12)")
    parser.add_argument("--width", type=int, default=32, help="of a head (default 32)")
    parser.add_argument("--rounds", type=int, default=9, help="(default 9)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(parsed())
