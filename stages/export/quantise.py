"""INT8 from an fp32 graph: weights ahead of time, activations as they come or calibrated.

Weights are signed, with a scale per output channel. Dynamic quantisation measures every activation
as it comes; static quantisation takes its ranges from calibration texts (docs/export.md has both
measured).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from stages.export.graph import Feeds, quiet
from stages.params.release import Int8

WEIGHTY = ["MatMul", "Gather"]
"""The operators that hold nearly all weights and work: linear maps and embeddings."""


def write_int8(fp32: Path, path: Path, settings: Int8, calibration: Iterable[Feeds] = ()) -> None:
    """Quantise an ONNX file.

    Args:
        fp32: The file to quantise.
        path: Where the quantised one is written.
        settings: How.
        calibration: What the graph is given in use; read where activations are calibrated.
    """
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )

    model = onnx.load(fp32)
    _store_transposed(model.graph)
    # The exporter's own shapes would contradict those of the quantised nodes.
    del model.graph.value_info[:]
    kept = [] if settings.feed_forward_out else _narrowing(model.graph)
    common: dict[str, Any] = {
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "op_types_to_quantize": WEIGHTY,
        "nodes_to_exclude": kept,
        # Attention multiplies activations: in eight bits that costs more than it saves.
        "extra_options": {"MatMulConstBOnly": True},
    }
    with quiet():
        if settings.activations == "dynamic":
            quantize_dynamic(model, path, **common)
        else:
            quantize_static(
                model,
                path,
                _Reader(iter(calibration)),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                calibrate_method=CalibrationMethod.MinMax,
                **common,
            )


class _Reader:
    """Calibration inputs as onnxruntime asks for them, one after the other and then None."""

    def __init__(self, feeds: Iterator[Feeds]) -> None:
        self.feeds = feeds

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def _narrowing(graph: onnx.GraphProto) -> list[str]:
    """Return the linear maps to fewer features: of a feed-forward block the second.

    Its inputs have outliers, and a scale for all of them leaves the others few levels.
    """
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and len(shape := shapes.get(node.input[1], [])) == 2
        if shape[0] > shape[1]
    ]


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
