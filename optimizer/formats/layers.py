"""The layers of a float graph: which weight belongs to which node, and on which axes its channels lie.

Every algorithm that changes weights before they are quantized sees the model through this.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats.nodes import captured

if TYPE_CHECKING:
    import onnx

TOLERANCE = 1e-3  # relative: far below the step of 8 bits, 1 / 127
ROUNDS = 50  # chains as long as MobileNet's settle in about twenty


@dataclass(frozen=True)
class Layer:
    """A node that multiplies its first input with a constant weight, channel by channel."""

    node: onnx.NodeProto
    weight: str
    outer: int  # the weight's axis of output channels
    inner: int  # the weight's axis of input channels, those of one group
    groups: int
    channel: int  # the axis of channels in input and output: 1, or -1 for the last
    bias: str | None  # a constant that belongs to the node itself

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def data(self) -> str:
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        return str(self.node.output[0])


class Graph:
    """A model's graph, indexed: who makes a tensor, who reads it, and the value of constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self.model = model
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys((*node.input, *captured([node]))):
                self.readers[name].append(node)
        self._uses = Counter(name for node in graph.node for name in (*node.input, *captured([node])))
        self._uses.update(value.name for value in graph.output)  # whoever runs the model reads these
        self._shapes = {
            value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.input, *graph.output)
            if value.type.tensor_type.HasField("shape")
        }
        self.layers = {node.name: layer for node in graph.node if (layer := self._layer(node))}

    def alone(self, name: str) -> bool:
        """Whether a tensor is read exactly once, by a node."""
        return self._uses[name] == 1 and name in self.readers

    def shape(self, name: str) -> list[int | str] | None:
        """Sizes and names of dimensions, or None where not even their number is known."""
        return list(self.tensors[name].dims) if name in self.tensors else self._shapes.get(name)

    def array(self, name: str) -> np.ndarray:
        """The value of a constant."""
        import onnx

        found: np.ndarray = onnx.numpy_helper.to_array(self.tensors[name])
        return found

    def put(self, name: str, array: np.ndarray) -> None:
        """Give a constant another value, as float32."""
        import onnx

        self.tensors[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))

    def add(self, name: str, array: np.ndarray) -> None:
        """A new constant, as float32."""
        import onnx

        self.model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        self.tensors[name] = self.model.graph.initializer[-1]

    def own(self, name: str) -> bool:
        """Whether `name` is a float constant that one node alone reads, so that changing it changes nothing else."""
        return name in self.tensors and self.tensors[name].data_type == 1 and self.alone(name)

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        """The node as a layer, when its weight is its own."""
        if node.domain not in ("", "ai.onnx") or len(node.input) < 2 or not self.own(node.input[1]):
            return None
        found = _axes(node, len(self.tensors[node.input[1]].dims))
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if found is None or (bias and not self.own(bias)):
            return None
        return Layer(node, node.input[1], *found, bias)


def _axes(node: onnx.NodeProto, rank: int) -> tuple[int, int, int, int] | None:
    """(outer, inner, groups, channel) of a node with a weight of this rank, or None where it is no layer."""
    numbers = {attribute.name: attribute.i for attribute in node.attribute}
    groups, outer = numbers.get("group", 1), channel_axis(node, rank)
    if node.op_type == "Conv" or (node.op_type == "ConvTranspose" and groups == 1):
        return outer, 1 - outer, groups, 1
    plain = (node.op_type == "Gemm" and not numbers.get("transA", 0)) or (node.op_type == "MatMul" and rank == 2)
    return (outer, 1 - outer, 1, -1) if plain else None


def channel_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a layer's weight that counts its output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return rank - 1


def grouped(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The weight as (groups, output channels of a group, input channels of a group, the rest)."""
    moved = np.moveaxis(weight, (layer.outer, layer.inner), (0, 1))
    return moved.reshape(layer.groups, -1, moved.shape[1], int(np.prod(moved.shape[2:])))


def outer_tops(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The largest magnitude of the weight per output channel."""
    found: np.ndarray = np.abs(grouped(layer, weight)).max(axis=(2, 3)).ravel()
    return found


def inner_tops(layer: Layer, weight: np.ndarray) -> np.ndarray:
    """The largest magnitude of the weight per input channel."""
    found: np.ndarray = np.abs(grouped(layer, weight)).max(axis=(1, 3)).ravel()
    return found


def channels(graph: Graph, layer: Layer) -> tuple[int, int]:
    """How many input and output channels a layer has."""
    dims = graph.tensors[layer.weight].dims
    return dims[layer.inner] * layer.groups, dims[layer.outer]


def ungrouped(layer: Layer, parts: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The weight in its own shape again; the inverse of `grouped`."""
    moved = [shape[layer.outer], shape[layer.inner]]
    moved += [size for axis, size in enumerate(shape) if axis not in (layer.outer, layer.inner)]
    return np.moveaxis(parts.reshape(moved), (0, 1), (layer.outer, layer.inner))


def scale_inputs(graph: Graph, layer: Layer, factors: np.ndarray) -> None:
    """Multiply the weights of each input channel."""
    weight = graph.array(layer.weight)
    scaled = grouped(layer, weight) * factors.reshape(layer.groups, 1, -1, 1)
    graph.put(layer.weight, ungrouped(layer, scaled, weight.shape))


def scale_outputs(graph: Graph, layer: Layer, factors: np.ndarray) -> None:
    """Multiply what each output channel comes to, its bias included."""
    weight = graph.array(layer.weight)
    across = [1] * weight.ndim
    across[layer.outer] = -1
    graph.put(layer.weight, weight * factors.reshape(across))
    if layer.bias:
        graph.put(layer.bias, graph.array(layer.bias) * factors)


def settle(steps: Sequence[Callable[[], float]]) -> int:
    """Take all steps, round by round, until none moves a factor by more than TOLERANCE; how many rounds it took.

    A step returns how far its factors were from 1. Layers of a chain pull at each other, so that one round is not
    enough.
    """
    for rounds in range(ROUNDS):
        if max((step() for step in steps), default=0.0) <= TOLERANCE:
            return rounds
    return ROUNDS
