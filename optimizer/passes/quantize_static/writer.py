"""Writes a placement into the graph: integer weights, int32 biases, and QuantizeLinear/DequantizeLinear pairs.

Names follow ONNX Runtime's own quantizer (`x_scale`, `x_zero_point`, `x_QuantizeLinear_Output`, ...), which other tools
know. A scheme with `qdq_on_weights` keeps the float weights behind a pair, as TensorRT wants them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.passes.quantize_static import grid, layers, placement
from optimizer.passes.quantize_static.grid import Grid
from optimizer.passes.quantize_static.placement import Placement
from optimizer.passes.quantize_static.ranges import Range
from optimizer.scheme import QuantScheme

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Weights:
    """How weights are stored."""

    per_channel: bool
    reduced: bool = False  # 7 bits: U8S8 products saturate in 16 bits on x86 without VNNI


def write(
    model: onnx.ModelProto, placed: Placement, ranges: Mapping[str, Range], weights: Weights, scheme: QuantScheme
) -> None:
    """Change the model in place; its nodes stay in topological order."""
    _plain(model, [node for index in placed.taken if (node := model.graph.node[index]).op_type == "Gemm"])
    _Writer(model, placed, ranges, weights, scheme).write()


class _Writer:
    def __init__(
        self,
        model: onnx.ModelProto,
        placed: Placement,
        ranges: Mapping[str, Range],
        weights: Weights,
        scheme: QuantScheme,
    ) -> None:
        import onnx

        self.graph, self.placed, self.ranges, self.weights, self.scheme = model.graph, placed, ranges, weights, scheme
        self.make: Callable[..., onnx.NodeProto] = onnx.helper.make_node
        self.array: Callable[[onnx.TensorProto], np.ndarray] = onnx.numpy_helper.to_array
        self.tensor: Callable[[np.ndarray, str], onnx.TensorProto] = onnx.numpy_helper.from_array
        self.floats = {t.name: t for t in self.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
        self.outputs = {value.name for value in self.graph.output}
        self.new: list[onnx.NodeProto] = []
        self.names: dict[str, str] = {}  # tensor that exists in 8 bits only -> what its readers read now
        self.stored: set[str] = set()  # names of initializers and pairs that are there already
        self.grids: dict[str, Grid] = {}
        self.constants: dict[tuple[str, int | None, bytes, bytes], str] = {}  # what is stored on which grid -> its name

    def write(self) -> None:
        nodes = list(self.graph.node)
        for value in self.graph.input:
            self._pair(value.name)
        takers = {before: clip for clip, before in self.placed.dropped.items()}
        taken = set(self.placed.taken)
        for index, node in enumerate(nodes):
            if index in self.placed.dropped:
                continue
            if index in takers:
                node.output[0] = nodes[takers[index]].output[0]
            self._read(node, index in taken)
            self.new.append(node)
            for position, name in enumerate(node.output):
                self._pair(name, node, position)
        del self.graph.node[:]
        self.graph.node.extend(self.new)
        self._sweep()

    def _sweep(self) -> None:
        """Take away weights that only their stored form is read of."""
        read = {name for node in self.graph.node for name in node.input} | self.outputs
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _grid(self, tensor: str) -> Grid:
        """The grid of an activation, or of a constant beside or instead of one: kernels of two inputs want one type."""
        if tensor not in self.grids:
            if tensor in self.ranges:
                low, high = self.ranges[tensor].low, self.ranges[tensor].high
            else:
                values = self.array(self.floats[tensor])
                low, high = float(values.min()), float(values.max())
            self.grids[tensor] = grid.of_range(low, high, self.scheme.activation, self.scheme.activation_symmetric)
        return self.grids[tensor]

    def _store(self, name: str, array: np.ndarray) -> str:
        """An initializer, once."""
        if name not in self.stored:
            self.stored.add(name)
            self.graph.initializer.append(self.tensor(np.asarray(array), name))
        return name

    def _on(self, root: str, found: Grid) -> list[str]:
        return [self._store(f"{root}_scale", found.scale), self._store(f"{root}_zero_point", found.zero)]

    def _pair(self, name: str, node: onnx.NodeProto | None = None, position: int = 0) -> None:
        """The pair behind an activation that was just made, where the placement wants one."""
        root = self.placed.grid(name) if name else None
        if root is None:
            return
        raw, result = name, f"{name}_DequantizeLinear_Output"
        if name in self.placed.written and name in self.outputs and node is not None:
            raw, result = f"{name}_QuantizeLinear_Input", name
            node.output[position] = raw
        parameters = self._on(root, self._grid(root))
        stored = f"{name}_QuantizeLinear_Output"
        self.new.append(self.make("QuantizeLinear", [raw, *parameters], [stored], f"{name}_QuantizeLinear"))
        self.new.append(self.make("DequantizeLinear", [stored, *parameters], [result], f"{name}_DequantizeLinear"))
        self.names[name] = result

    def _read(self, node: onnx.NodeProto, taken: bool) -> None:
        """Let a node read what the placement gives it."""
        floats = list(node.input)
        for position, name in enumerate(floats):
            if name in self.placed.written or (taken and name in self.placed.read):
                node.input[position] = self.names[name]
        if not taken:
            return
        if node.op_type in placement.WEIGHTED:
            self._weighted(node, floats)
        elif node.op_type in placement.TABLES and floats[0] in self.floats:
            node.input[0] = self._weight(floats[0], self._grid(floats[0]), None, node)
        elif node.op_type not in placement.FOLLOWERS | placement.CLIPS | placement.TABLES:
            for position, name in enumerate(floats):
                if name in self.floats:
                    node.input[position] = self._weight(name, self._grid(name), None, node)

    def _weighted(self, node: onnx.NodeProto, floats: list[str]) -> None:
        """Weight and bias of a layer; a product of two activations has neither."""
        if floats[0] in self.floats:
            node.input[0] = self._weight(floats[0], self._grid(floats[0]), None, node)
        if floats[1] not in self.floats:
            return
        weight = self.array(self.floats[floats[1]])
        axis = layers.channel_axis(node, weight.ndim) if self.weights.per_channel else None
        found = grid.of_weight(weight, axis, self.weights.reduced, self.scheme.weight)
        root = self.placed.grid(floats[0])
        if self.scheme.quantize_bias and root and len(floats) > 2 and floats[2] in self.floats:
            bias = self.array(self.floats[floats[2]]).reshape(-1)
            if not found.scale.ndim or bias.size == found.scale.size:  # else it is no number per channel
                found = grid.widened(found, bias, self._grid(root))
                node.input[2] = self._bias(floats[2], bias, found, self._grid(root), node)
        node.input[1] = self._weight(floats[1], found, axis, node)

    def _bias(self, name: str, values: np.ndarray, weight: Grid, activation: Grid, node: onnx.NodeProto) -> str:
        """The bias as int32. Layers that share one store it on grids of their own."""
        stored, scale = grid.bias_of(values, weight, activation)
        base = name if f"{name}_quantized" not in self.stored else f"{name}_{node.name}"
        inputs = [
            self._store(f"{base}_quantized", stored),
            self._store(f"{base}_quantized_scale", scale),
            self._store(f"{base}_quantized_zero_point", np.zeros(scale.shape, np.int32)),
        ]
        result = f"{base}_DequantizeLinear_Output"
        self.new.append(self.make("DequantizeLinear", inputs, [result], f"{base}_DequantizeLinear", axis=0))
        return result

    def _weight(self, name: str, found: Grid, axis: int | None, node: onnx.NodeProto) -> str:
        """The dequantized constant, stored as integers, or as floats that are quantized when the model is loaded.

        Readers that want the same grid share it.
        """
        key = (name, axis, found.scale.tobytes(), found.zero.tobytes())
        if key in self.constants:
            return self.constants[key]
        base = name if name not in {other for other, *_ in self.constants} else f"{name}_{node.name}"
        parameters, along = self._on(base, found), {} if axis is None else {"axis": axis}
        if self.scheme.qdq_on_weights:
            stored = f"{base}_QuantizeLinear_Output"
            inputs = [name, *parameters]
            self.new.append(self.make("QuantizeLinear", inputs, [stored], f"{base}_QuantizeLinear", **along))
        else:
            stored = self._store(f"{base}_quantized", found.store(self.array(self.floats[name]), axis))
        result = self.constants[key] = f"{base}_DequantizeLinear_Output"
        inputs = [stored, *parameters]
        self.new.append(self.make("DequantizeLinear", inputs, [result], f"{base}_DequantizeLinear", **along))
        return result


def _plain(model: onnx.ModelProto, gemms: Sequence[onnx.NodeProto]) -> None:
    """Put Gemm's factors into its constants: integer kernels add the bias before they scale."""
    import onnx

    constants = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    for node, (name, position) in itertools.product(gemms, (("alpha", 1), ("beta", 2))):
        factor = next((a for a in node.attribute if a.name == name), None)
        if factor is None or factor.f == 1 or len(node.input) <= position or node.input[position] not in constants:
            continue
        values = onnx.numpy_helper.to_array(constants[node.input[position]]) * np.float32(factor.f)
        node.input[position] = f"{node.input[position]}_{node.name}_{name}"
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.input[position]))
        factor.f = 1.0
