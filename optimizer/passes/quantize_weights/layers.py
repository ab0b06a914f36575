"""The layers of an ONNX graph whose weights can be stored as integers: products with a constant, lookups in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.formats.layers import channel_axis

if TYPE_CHECKING:
    import onnx

FLOAT = 1  # of onnx.TensorProto


@dataclass(frozen=True)
class Layer:
    """A product or a lookup: which node, what it reads, and where its weights (n, k) are."""

    name: str  # of the node
    op: str
    input: str
    weight: str  # of the initializer
    turned: bool  # stored as (k, n)
    factor: float  # the weights are multiplied by it: Gemm's alpha

    @property
    def table(self) -> bool:
        return self.op == "Gather"


def found(model: onnx.ModelProto, embeddings: bool) -> list[Layer]:
    """The layers in the graph's order; with `embeddings` also lookups."""
    constants = {t.name: t for t in model.graph.initializer if t.data_type == FLOAT and len(t.dims) == 2}
    turned = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Transpose" and node.input[0] in constants
    }
    layers = (_layer(node, constants, turned, embeddings) for node in model.graph.node)
    return [layer for layer in layers if layer is not None]


def weights(tensor: onnx.TensorProto, layer: Layer) -> np.ndarray:
    """The layer's weights, float32 (n, k): one row per output, or per entry of a table."""
    from onnx import numpy_helper

    stored = numpy_helper.to_array(tensor)
    rows = np.ascontiguousarray(stored.T if layer.turned else stored)
    return rows * np.float32(layer.factor) if layer.factor != 1 else rows


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _layer(node: onnx.NodeProto, constants: Mapping[str, Any], turned: Mapping[str, str], tables: bool) -> Layer | None:
    if node.op_type in ("MatMul", "Gemm"):
        return _product(node, constants, turned)
    if tables and node.op_type == "Gather" and node.input[0] in constants and attributes(node).get("axis", 0) == 0:
        return Layer(node.name, node.op_type, node.input[1], node.input[0], False, 1.0)
    return None


def _product(node: onnx.NodeProto, constants: Mapping[str, Any], turned: Mapping[str, str]) -> Layer | None:
    options, name, outer = attributes(node), node.input[1], channel_axis(node, 2)
    if name in turned:  # x @ transpose(w), as a head that shares the embedding's table is exported
        name, outer = turned[name], 1 - outer
    if name not in constants or options.get("transA", 0):
        return None
    return Layer(node.name, node.op_type, node.input[0], name, outer == 1, float(options.get("alpha", 1.0)))
