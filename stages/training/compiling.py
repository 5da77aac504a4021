"""Compiled layers: what lies between two products of a layer becomes a kernel or two of its own.

A layer at a time, because all layers of an encoder are one program: it is compiled for the first
and serves the rest, in seconds where a whole model takes minutes. A batch of another size than the
last is compiled once more, for every size.
"""

from torch import nn

from stages.students.heads import encoder_layers


def compile_layers(*models: nn.Module) -> None:
    """Have encoder layers compiled when they run next; weights stay where they are."""
    for model in models:
        for layer in encoder_layers(model):
            layer.compile()
