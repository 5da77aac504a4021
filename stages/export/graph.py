"""A model as an ONNX graph in fp32, in one file with its weights.

It takes input_ids and attention_mask (int64, batch x sequence: a batch of any size, sequences up to
the model's positions), classifiers that know token types those as well. A masked language model
gives logits (batch x sequence x vocabulary), a classifier logits (batch x labels), an encoder its
last hidden states (batch x sequence x width).
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from stages.students.positions import num_positions

INPUTS = ("input_ids", "attention_mask")
INPUTS_OF_PAIRS = (*INPUTS, "token_type_ids")
LOGITS, HIDDEN = "logits", "last_hidden_state"
Feeds = dict[str, NDArray[np.int64]]
"""What a graph is given: every input's values, batch x sequence, by its name."""


class OneOutput(nn.Module):
    """A model whose output is a tensor and nothing else, as a graph needs it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.output = model, output_of(model)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> Tensor:
        """Return the model's output."""
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **types)
        tensor: Tensor = found[self.output]
        return tensor


def inputs_of(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the names of a graph's inputs, in order."""
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    if classifies and getattr(model.config, "type_vocab_size", 0) > 1:
        return INPUTS_OF_PAIRS
    return INPUTS


def output_of(model: PreTrainedModel) -> str:
    """Return the name of a graph's output: logits, or an encoder's hidden states."""
    return HIDDEN if type(model) is type(model.base_model) else LOGITS


def write_fp32(model: PreTrainedModel, path: Path) -> None:
    """Write the model's ONNX graph; its results are PyTorch's, up to the order of sums."""
    # Evaluation mode is the wrapper's own: the exporter looks at what it is given.
    wrapper = OneOutput(model).eval()
    # Neither dimension is 1 here, or the exporter would take it for a constant.
    example = torch.ones((2, 8), dtype=torch.int64)
    most = num_positions(model.config)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=most)}
    names = inputs_of(model)
    with quiet():
        program = torch.onnx.export(
            wrapper,
            tuple(example.clone() for _ in names),
            dynamo=True,
            input_names=list(names),
            output_names=[wrapper.output],
            dynamic_shapes=dict.fromkeys(names, axes),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' notes about libraries that are not installed out of the log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
