"""Weights and biases of an exported PT2E program as the kernels of a target want them.

The exporter leaves a weight in floats, as it lies in the module, behind Q, Clip and DQ, with a Transpose in front of
its product, and leaves a bias in floats. No runtime fuses that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from optimizer.passes.quantize_static import grid
from optimizer.passes.quantize_static.grid import Grid
from optimizer.scheme import QuantScheme

if TYPE_CHECKING:
    import onnx_ir

MADE = ("QuantizeLinear", "Clip")  # what stands between a weight and its DequantizeLinear


def settle(model: onnx_ir.Model, scheme: QuantScheme) -> Counter[str]:
    """Store, transpose and pair the constants of quantized layers for `scheme`, in place.

    Returns how many layers of each operator type multiply with a quantized weight.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass
    from onnxscript.optimizer import fold_constants

    fold_constants(model, should_fold=lambda node: node.op_type in MADE)
    counts: Counter[str] = Counter()
    for node in list(model.graph):
        pair = _weight_pair(node)
        if pair is not None:
            counts[node.op_type] += 1
            _Layer(model.graph, node, scheme).settle(pair)
    RemoveUnusedNodesPass()(model)
    return counts


def _weight_pair(node: onnx_ir.Node) -> onnx_ir.Node | None:
    """The DequantizeLinear of a layer's stored weight, with no more than a transposition between them."""
    pair = None if node.op_type == "Transpose" else _maker(node, 1)
    if pair is not None and pair.op_type == "Transpose":
        pair = _maker(pair, 0)
    stored = pair is not None and pair.op_type == "DequantizeLinear" and _constant(pair, 0) is not None
    return pair if stored else None


def _maker(node: onnx_ir.Node, place: int) -> onnx_ir.Node | None:
    value = node.inputs[place] if len(node.inputs) > place else None
    return value.producer() if value is not None else None


def _constant(node: onnx_ir.Node, place: int) -> np.ndarray | None:
    value = node.inputs[place] if len(node.inputs) > place else None
    return value.const_value.numpy() if value is not None and value.const_value is not None else None


class _Layer:
    """A node with a quantized weight."""

    def __init__(self, graph: onnx_ir.Graph, node: onnx_ir.Node, scheme: QuantScheme) -> None:
        self.graph, self.node, self.scheme = graph, node, scheme

    def settle(self, pair: onnx_ir.Node) -> None:
        stored, scale = _constant(pair, 0), _constant(pair, 1)
        assert stored is not None and scale is not None, "BUG: torch.export writes a weight's grid as constants"
        axis = pair.attributes.get_int("axis", 1) % stored.ndim if scale.ndim else None
        turn = _maker(self.node, 1)
        if turn is not None and turn.op_type == "Transpose":
            order = list(turn.attributes.get_ints("perm", range(stored.ndim)[::-1]))
            stored = np.ascontiguousarray(stored.transpose(order))
            axis = None if axis is None else order.index(axis)
        found = Grid(scale, np.zeros(scale.shape, stored.dtype))
        self._bias(found)
        self.node.replace_input_with(1, self._weight(stored, found, axis))

    def _weight(self, stored: np.ndarray, found: Grid, axis: int | None) -> onnx_ir.Value:
        along = {} if axis is None else {"axis": axis}
        parameters = [self._store("weight_scale", found.scale), self._store("weight_zero_point", found.zero)]
        if not self.scheme.qdq_on_weights:
            return self._made("DequantizeLinear", [self._store("weight_quantized", stored), *parameters], along)
        shape = [-1 if axis == i else 1 for i in range(stored.ndim)] if found.scale.ndim else []
        real = self._store("weight", stored.astype(np.float32) * found.scale.reshape(shape))
        integers = self._made("QuantizeLinear", [real, *parameters], along)
        return self._made("DequantizeLinear", [integers, *parameters], along)

    def _bias(self, weight: Grid) -> None:
        """The bias in int32 on the grid of the products, where the target's kernels add it before they scale."""
        data, bias = _maker(self.node, 0), _constant(self.node, 2)
        if not self.scheme.quantize_bias or bias is None or data is None or data.op_type != "DequantizeLinear":
            return
        scale = _constant(data, 1)
        if scale is None or scale.ndim or (weight.scale.ndim and bias.size != weight.scale.size):
            return
        activation = Grid(scale, np.zeros((), np.int32))
        if np.any(grid.widened(weight, bias, activation).scale > weight.scale):
            return  # it would not fit into 32 bits, and the weight's grid is not ours to change
        stored, scales = grid.bias_of(bias, weight, activation)
        zeros = np.zeros(scales.shape, np.int32)
        inputs = [
            self._store("bias_quantized", stored),
            self._store("bias_scale", scales),
            self._store("bias_zero_point", zeros),
        ]
        self.node.replace_input_with(2, self._made("DequantizeLinear", inputs, {"axis": 0}))

    def _store(self, what: str, array: np.ndarray) -> onnx_ir.Value:
        import onnx_ir

        tensor = onnx_ir.tensor(array)
        value = onnx_ir.Value(
            name=f"{self._root}_{what}",
            type=onnx_ir.TensorType(tensor.dtype),
            shape=onnx_ir.Shape(array.shape),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def _made(self, op: str, inputs: Sequence[onnx_ir.Value], attributes: dict[str, int]) -> onnx_ir.Value:
        import onnx_ir

        node = onnx_ir.node(op, inputs, attributes)
        node.outputs[0].name = f"{inputs[0].name}_{op}_Output"
        self.graph.insert_before(self.node, node)
        return node.outputs[0]

    @property
    def _root(self) -> str:
        """The layer's output, which has a name of its own."""
        return str(self.node.outputs[0].name)
