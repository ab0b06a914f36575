"""The quantized graph as it is trained: the writer's own Q/DQ pairs, each a fake quantizer with a learnt step size.

The graph is what `writer` writes for the target, except that weights and biases stay float, so that they can be learnt:
weights behind pairs, biases rounded to the grid that they will have. So the placement is the deployed one by
construction, and no second description of it can fall out of step.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.formats import onnx_torch
from optimizer.passes.quantize_static import grid, placement, writer
from optimizer.passes.quantize_static.grid import Grid
from optimizer.passes.quantize_static.onnx import Ready
from optimizer.passes.quantize_static.qat.pair import SPAN, Pair, across, function, step_size, written

if TYPE_CHECKING:
    import onnx
    import torch

BIAS = "RoundBias"  # an operator of this graph alone: bias, logarithms of the activation's and the weight's scale
STORED = {"uint8": (0, 255), "int8": (-128, 127)}  # where QuantizeLinear saturates


@dataclass(frozen=True)
class Fake:
    """A graph to train, with step sizes and zero points among its initializers in the form in which they are learnt."""

    model: onnx.ModelProto
    pairs: Mapping[str, Pair]  # by the name of the QuantizeLinear node
    weights: frozenset[str]  # initializers that are learnt besides, as in the float model

    def module(self, outputs: bool = False, quantize: onnx_torch.Function | None = None) -> torch.nn.Module:
        """The graph as a module; `outputs`: with every quantized activation among its outputs.

        `quantize` takes the place of the fake quantizer.
        """
        model = self.model
        if outputs:
            model = copy.deepcopy(model)
            model.graph.output.extend(_value(name) for name in self.stored())
        functions = {"QuantizeLinear": quantize or self.quantize, "DequantizeLinear": _as_it_is, BIAS: _rounded}
        return onnx_torch.convert(model, self._trainable(), functions, "qat")

    def stored(self) -> list[str]:
        """The tensors that hold quantized activations; in the module they hold the real values that these stand for."""
        return [
            node.output[0] for node in self.model.graph.node if (p := self.pairs.get(node.name)) and p.constant is None
        ]

    def rate(self, parameter: str, module: Any, optimizer: str) -> float:
        """The factor on the learning rate of a parameter of the module.

        AdamW moves a logarithm by the learning rate, whatever its gradient. Plain gradients want 1 / scale^2: then the
        step size itself moves as LSQ has it.
        """
        name = module.names[int(parameter.rpartition(".")[2])]
        if optimizer == "adamw" or name not in {pair.scale for pair in self.pairs.values()}:
            return 1.0
        logs = next(tensor for tensor in self.model.graph.initializer if tensor.name == name)
        return float(np.exp(-2 * _array(logs)).mean())

    def _trainable(self) -> frozenset[str]:
        learnt = {pair.scale for pair in self.pairs.values()}
        return self.weights | learnt | {pair.zero for pair in self.pairs.values() if pair.moves}

    def quantize(
        self, op: onnx_torch.Operation, x: torch.Tensor, log: torch.Tensor, share: torch.Tensor
    ) -> torch.Tensor:  # fmt: skip
        """The fake quantizer of a pair, as a function for a node of the graph."""
        pair = self.pairs[op.name]
        found: torch.Tensor = function().apply(x, log, share, pair)
        return found

    def learnt(self, values: Mapping[str, np.ndarray]) -> writer.Learnt:
        """The grids out of what the module holds now."""
        tensors: dict[str, Grid] = {}
        weights: dict[str, Grid] = {}
        fixed = {t.name: t for t in self.model.graph.initializer}
        for pair in self.pairs.values():
            share = values[pair.zero] if pair.zero in values else _array(fixed[pair.zero])
            zero = np.clip(np.rint(share * SPAN), pair.low, pair.high)
            found = Grid(written(values[pair.scale]), np.asarray(zero).astype(pair.kind))
            if pair.layers:
                weights |= dict.fromkeys(pair.layers, found)
            else:
                tensors[pair.tensor] = found
        return writer.Learnt(tensors, weights)

    def put(self, model: onnx.ModelProto, values: Mapping[str, np.ndarray]) -> int:
        """Give the float model the weights that were learnt, cut off at the ends of their grids; how many they are."""
        import onnx

        grids = self.learnt(values).weights
        reads = Counter(name for node in self.model.graph.node for name in node.input)
        owned = {p.constant: p for p in self.pairs.values() if p.layers and reads[p.constant] == 1}
        count = 0
        for tensor in model.graph.initializer:
            if tensor.name not in values:
                continue
            found, pair = values[tensor.name], owned.get(tensor.name)
            if pair:
                scale = grids[pair.layers[0]].scale.reshape(across(pair.axis, found.ndim))
                found = np.clip(found, pair.low * scale, pair.high * scale)
            tensor.CopyFrom(onnx.numpy_helper.from_array(found.astype(np.float32), tensor.name))
            count += 1
        return count


def build(ready: Ready) -> Fake:
    """The training graph of a float model ready to be quantized; factors of its Gemms become part of the weights."""
    scheme = dataclasses.replace(ready.scheme, qdq_on_weights=True, quantize_bias=False)
    writer.plain(ready.model, ready.place(scheme))
    model = copy.deepcopy(ready.model)
    ready.insert(model, scheme)
    pairs = _pairs(model, ready)
    if ready.scheme.quantize_bias:
        _round_biases(model, pairs)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in {pair.scale for pair in pairs.values()}:
        _replace(tensors[name], np.log(_array(tensors[name])))
    for name in {pair.zero for pair in pairs.values()}:
        _replace(tensors[name], _array(tensors[name]).astype(np.float32) / SPAN)
    return Fake(model, pairs, frozenset(onnx_torch.weights(ready.model)))


def _pairs(model: onnx.ModelProto, ready: Ready) -> dict[str, Pair]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    restored = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    reads = Counter(name for node in model.graph.node for name in node.input)
    found = {}
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        data, scale, zero = node.input
        constant = data if data in tensors else None
        root, kind = scale.removesuffix("_scale"), _array(tensors[zero]).dtype.name
        layers = _layers(model, restored[node.output[0]]) if constant else ()
        low, high = _ends(kind, ready, bool(layers) and reads[data] == 1, constant is not None)
        axis = next((a.i for a in node.attribute if a.name == "axis"), None) if len(tensors[scale].dims) else None
        start = _array(tensors[zero]).reshape(-1)[0]
        moves = not (constant or ready.scheme.activation_symmetric) and bool(low < start < high)
        found[node.name] = Pair(scale, zero, kind, low, high, axis, layers, constant or root, constant, moves)
    return found


def _ends(kind: str, ready: Ready, owned: bool, constant: bool) -> tuple[int, int]:
    """The smallest and the largest stored value. `owned`: a weight that `put` cuts off at the ends of its own grid."""
    if owned:
        top = grid.top(ready.options.reduce_range)
        return -top, top
    low, high = grid.LIMITS[kind] if constant and not ready.scheme.qdq_on_weights else STORED[kind]
    return int(low), int(high)


def _round_biases(model: onnx.ModelProto, pairs: Mapping[str, Pair]) -> None:
    """Put every bias that the writer will store as int32 behind an operator that rounds it accordingly."""
    import onnx

    tensors = {t.name: t for t in model.graph.initializer}
    grids = {node.output[0]: pairs[node.name] for node in model.graph.node if node.name in pairs}
    grids = {n.output[0]: grids[n.input[0]] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    weights = {layer: pair for pair in pairs.values() for layer in pair.layers}
    nodes = []
    for node in model.graph.node:
        read = grids.get(node.input[0]) if node.name in weights and len(node.input) > 2 else None
        if read and node.input[2] in tensors:
            scale, size = weights[node.name].scale, int(np.prod(tensors[node.input[2]].dims))
            if tensors[scale].dims in ([], [size]):
                rounded = f"{node.name}_{BIAS}"
                nodes.append(onnx.helper.make_node(BIAS, [node.input[2], read.scale, scale], [rounded], name=rounded))
                node.input[2] = rounded
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _as_it_is(op: onnx_torch.Operation, x: torch.Tensor, *grid: torch.Tensor) -> torch.Tensor:
    """A fake quantizer has gone back to real values already."""
    del op, grid
    return x


def _rounded(op: onnx_torch.Operation, bias: torch.Tensor, read: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The bias on its int32 grid; its gradient passes straight through."""
    del op
    scale = (step_size(read.detach()) * step_size(weight.detach())).double()
    rounded = ((bias.detach().double() / scale).round() * scale).float()
    return bias + (rounded - bias.detach())


def _layers(model: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """The layers whose weight the dequantized tensor `name` is."""
    found = (n for n in model.graph.node if n.op_type in placement.WEIGHTED and n.input[1] == name)
    return tuple(str(node.name) for node in found)


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    import onnx

    found: np.ndarray = onnx.numpy_helper.to_array(tensor)
    return found


def _replace(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    import onnx

    tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(array, np.float32), tensor.name))


def _value(name: str) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
