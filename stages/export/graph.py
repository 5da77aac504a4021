"""A masked-language model as ONNX: one file of fp32, and one of INT8 made from it.

Both take input_ids and attention_mask (int64, batch x sequence, both of any size) and give logits
(batch x sequence x vocabulary). Neither has weights in a second file.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

INPUTS, OUTPUT = ("input_ids", "attention_mask"), "logits"


class LogitsOnly(nn.Module):
    """A model whose output is its logits and nothing else, as a graph needs it."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits, B x S x V."""
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def write_fp32(model: PreTrainedModel, path: Path) -> None:
    """Write the model's ONNX graph; its results are PyTorch's, up to the order of sums."""
    # Evaluation mode is the wrapper's own: the exporter looks at what it is given.
    wrapper = LogitsOnly(model).eval()
    # Neither dimension is 1 here, or the exporter would take it for a constant.
    example = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=_max_length(model))}
    with _quiet():
        program = torch.onnx.export(
            wrapper,
            (example, example.clone()),
            dynamo=True,
            input_names=list(INPUTS),
            output_names=[OUTPUT],
            dynamic_shapes=dict.fromkeys(INPUTS, axes),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


def write_int8(fp32: Path, path: Path) -> None:
    """Quantise the weights of an ONNX file to INT8; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(fp32)
    _store_transposed(graph.graph)
    # The exporter's own shapes would contradict those of the quantised nodes.
    del graph.graph.value_info[:]
    with _quiet():
        quantize_dynamic(graph, path, weight_type=QuantType.QInt8, per_channel=True)


def _store_transposed(graph: onnx.GraphProto) -> None:
    """Replace transposed weights by weights that are stored transposed.

    The vocabulary projection shares its weight with the embedding and transposes it at run time,
    so the quantiser would leave it in fp32: two thirds of a small student's work.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    for node in list(graph.node):
        if node.op_type != "Transpose" or node.input[0] not in weights:
            continue
        order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        values = np.transpose(numpy_helper.to_array(weights[node.input[0]]), order)
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(values), node.output[0])
        )
        graph.node.remove(node)


def _max_length(model: PreTrainedModel) -> int:
    return int(model.config.max_position_embeddings)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
