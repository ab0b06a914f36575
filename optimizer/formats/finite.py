"""Weights that hold NaN or infinity: no scale fits those."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError

if TYPE_CHECKING:
    import onnx

FLOAT = 1  # of onnx.TensorProto


def check(model: onnx.ModelProto, takes: Callable[[onnx.NodeProto], bool]) -> None:
    """Raise OptimizerError for a node that is to be quantized and has a float32 weight with NaN or infinity."""
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    for node in filter(takes, model.graph.node):
        for name in node.input:
            if name in tensors:
                refuse(onnx.numpy_helper.to_array(tensors[name]), name, node.op_type, node.name)


def refuse(values: np.ndarray, weight: str, kind: str, layer: str) -> None:
    """Raise OptimizerError when the values of a layer's weight are not all finite."""
    bad = int(values.size - np.count_nonzero(np.isfinite(values)))
    if bad:
        raise OptimizerError(
            f"{bad} of {values.size} values of '{weight}', a weight of {kind} '{layer}', are NaN or infinite",
            f"repair the weights, or leave the layer in float with keep: [{layer}]",
        )
