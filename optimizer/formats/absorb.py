"""Where a factor per channel of a tensor can be hidden: in the constants and weights that make the tensor.

Going up from the tensor, operations that commute with a positive factor per channel are passed, until one is
met whose own constants can take the factor. Every tensor on the way must have no other reader.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats.layers import Graph, Layer, outer_tops, scale_outputs

if TYPE_CHECKING:
    import onnx

# f(s x) = s f(x) for s > 0, each channel by itself.
HOMOGENEOUS = frozenset((
    "Relu", "LeakyRelu", "PRelu", "Abs", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool",
))  # fmt: skip
# Inputs that hold one factor and one offset per channel of the result, and the axis of that channel.
NORMS = {
    "LayerNormalization": (1, 2, -1),
    "SkipLayerNormalization": (2, 3, -1),
    "RMSNormalization": (1, None, -1),
    "SimplifiedLayerNormalization": (1, None, -1),
    "SkipSimplifiedLayerNormalization": (2, None, -1),
    "InstanceNormalization": (1, 2, 1),
    "BatchNormalization": (1, 2, 1),
}
RESHAPING = frozenset(("Flatten", "Reshape", "Squeeze", "Unsqueeze"))
REDUCING = frozenset(("ReduceMean", "ReduceSum", "ReduceMax"))


@dataclass(frozen=True)
class Constant:
    """A constant and the shape in which a factor per channel is multiplied with it."""

    name: str
    shape: tuple[int, ...]
    divides: bool = False  # it is a divisor: the factor goes in inverted


@dataclass(frozen=True)
class Absorber:
    """What makes a tensor and can take a factor per channel; or the reason why nothing can."""

    constants: tuple[Constant, ...] = ()
    layer: Layer | None = None
    reason: str | None = None

    def alive(self, graph: Graph) -> np.ndarray:
        """Per channel, whether it depends on any input; what is left of a dead one is a bias, coarse as it is."""
        found: np.ndarray = outer_tops(self.layer, graph.array(self.layer.weight)) > 0 if self.layer else np.array(True)
        return found

    def scale(self, graph: Graph, factors: np.ndarray) -> None:
        """Multiply each channel of the tensor."""
        if self.reason is not None:
            raise AssertionError("BUG: nothing absorbs here")
        for constant in self.constants:
            factor = factors.reshape(constant.shape)
            value = graph.array(constant.name)
            graph.put(constant.name, value / factor if constant.divides else value * factor)
        if self.layer:
            scale_outputs(graph, self.layer, factors)


def others(graph: Graph, tensor: str, readers: Collection[str]) -> str | None:
    """Who reads a tensor besides the nodes named in `readers`, as far as a sentence bears it; None: nobody."""
    found = [node.name for node in graph.readers[tensor] if node.name not in readers]
    if found or any(value.name == tensor for value in graph.model.graph.output):
        return ", ".join(found[:3]) or "whoever runs the model"
    return None


def absorber(graph: Graph, tensor: str, axis: int, channels: int) -> Absorber:
    """What can take a factor for each of the `channels` that lie on `axis` (negative: from the end) of the tensor."""
    shape = graph.shape(tensor)
    if shape is None:
        return Absorber(reason=f"the shape of '{tensor}' is not known")
    return _above(graph, tensor, axis % len(shape), channels)


def _above(graph: Graph, tensor: str, axis: int, channels: int) -> Absorber:
    node, shape = graph.makers.get(tensor), graph.shape(tensor)
    if node is None or shape is None:
        return Absorber(reason=f"'{tensor}' is an input of the model" if node is None else f"'{tensor}' has no shape")
    layer = graph.layers.get(node.name)
    if layer:
        fits = layer.channel % len(shape) == axis and graph.tensors[layer.weight].dims[layer.outer] == channels
        return Absorber(layer=layer) if fits and _plain_bias(graph, layer) else _stop(node)
    if node.op_type in NORMS:
        return norm(graph, node, channels) if axis == NORMS[node.op_type][2] % len(shape) else _stop(node)
    if node.op_type in ("Add", "Sub", "Mul", "Div"):
        return _arithmetic(graph, node, axis, channels)
    if node.op_type in HOMOGENEOUS:
        return _through(graph, node, axis, channels)
    moved = MOVES[node.op_type](graph, node, axis) if node.op_type in MOVES else None
    return _stop(node) if moved is None else _through(graph, node, moved, channels)


def _stop(node: onnx.NodeProto) -> Absorber:
    return Absorber(reason=f"{node.op_type} '{node.name or node.output[0]}' cannot take a factor")


def _through(graph: Graph, node: onnx.NodeProto, axis: int, channels: int, index: int = 0) -> Absorber:
    """Past a node to one of its inputs, when the node is the only reader."""
    name = node.input[index]
    if not graph.alone(name):
        others = [n.name for n in graph.readers[name] if n.name != node.name] or ["the model's outputs"]
        return Absorber(reason=f"'{name}' is also read by {', '.join(others[:3])}")
    return _above(graph, name, axis, channels)


def _plain_bias(graph: Graph, layer: Layer) -> bool:
    """A bias with one value per output channel, or none."""
    outer = graph.tensors[layer.weight].dims[layer.outer]
    return layer.bias is None or list(graph.tensors[layer.bias].dims) == [outer]


def norm(graph: Graph, node: onnx.NodeProto, channels: int) -> Absorber:
    """Factor and offset of a normalization over the channels, or of each channel."""
    places = [place for place in NORMS[node.op_type][:2] if place is not None and place < len(node.input)]
    names = [node.input[place] for place in places if node.input[place]]
    if all(graph.own(name) and list(graph.tensors[name].dims) == [channels] for name in names):
        return Absorber(tuple(Constant(name, (channels,)) for name in names))
    return _stop(node)


def _arithmetic(graph: Graph, node: onnx.NodeProto, axis: int, channels: int) -> Absorber:
    """Past the addition of a constant, which is scaled too; into a product with a constant, or past a product."""
    constant = next((i for i, name in enumerate(node.input) if name in graph.tensors), None)
    if constant is None:
        if node.op_type != "Mul":
            return _stop(node)
        sides = (_through(graph, node, axis, channels, index) for index in (0, 1))
        return next((found for found in sides if found.reason is None), _stop(node))
    if node.op_type == "Div" and constant == 0:
        return _stop(node)
    name, rank = node.input[constant], len(graph.shape(node.output[0]) or ())
    dims = [1] * (rank - len(graph.tensors[name].dims)) + list(graph.tensors[name].dims)
    if node.op_type in ("Mul", "Div") and dims[axis] == 1:  # one factor for all channels commutes with ours
        return _through(graph, node, axis, channels, 1 - constant)
    shape = [1] * rank
    shape[axis] = channels
    if dims[axis] != channels or not graph.own(name):
        return _stop(node)
    taken = Constant(name, tuple(shape[rank - len(graph.tensors[name].dims) :]), node.op_type == "Div")
    if node.op_type in ("Mul", "Div"):
        return Absorber((taken,))
    above = _through(graph, node, axis, channels, 1 - constant)
    return above if above.reason else replace(above, constants=(taken, *above.constants))


def _transpose(graph: Graph, node: onnx.NodeProto, axis: int) -> int | None:
    perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
    return perm[axis] if perm else len(graph.shape(node.output[0]) or ()) - 1 - axis


def _reshape(graph: Graph, node: onnx.NodeProto, axis: int) -> int | None:
    """Where nothing but ones follows the channels on either side, they stay what they are."""
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if not before or not after or any(size != 1 for size in after[axis + 1 :]):
        return None
    place = max((i for i, size in enumerate(before) if size != 1), default=None)
    return place if place is not None and before[place] == after[axis] else None


def _reduce(graph: Graph, node: onnx.NodeProto, axis: int) -> int | None:
    """Sums, means and maxima over other axes than that of the channels."""
    shape = graph.shape(node.input[0])
    axes = next((list(a.ints) for a in node.attribute if a.name == "axes"), None)
    if axes is None and len(node.input) > 1 and node.input[1] in graph.tensors:
        axes = [int(i) for i in graph.array(node.input[1]).ravel()]
    if shape is None or not axes:
        return None
    gone = {i % len(shape) for i in axes}
    keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
    place = axis if keep else [i for i in range(len(shape)) if i not in gone][axis]
    return None if place in gone else place


MOVES: dict[str, Callable[[Graph, onnx.NodeProto, int], int | None]] = {
    "Transpose": _transpose,
    **dict.fromkeys(RESHAPING, _reshape),
    **dict.fromkeys(REDUCING, _reduce),
}
