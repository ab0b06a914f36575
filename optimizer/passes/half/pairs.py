"""Q/DQ pairs among 16-bit floats: their scales say what type lies between them, their weights keep their integers."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.formats.nodes import PAIR
from optimizer.passes.half import numbers
from optimizer.passes.half.numbers import Half

if TYPE_CHECKING:
    import onnx

E4M3 = 448.0  # the largest 8-bit float of the kind that pairs hold
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
OPSETS = {numbers.FLOAT16: 19, numbers.BFLOAT16: 22}  # from which pairs take such scales, and all else these values


@dataclass(frozen=True)
class Weight:
    """A float weight behind a symmetric pair: its name, its steps on the grid (whole numbers, or 8-bit floats)."""

    name: str
    scale: str
    steps: np.ndarray
    scales: np.ndarray  # broadcast to the weight's rank

    def values(self, half: Half | None = None) -> np.ndarray:
        """What it stands for, with its scales in 16 bits if that is asked for."""
        scales = half.stored(self.scales).astype(np.float32) if half else self.scales
        found: np.ndarray = (self.steps * scales).astype(np.float32)
        return found


def snap(model: onnx.ModelProto, half: Half) -> None:
    """Put float weights behind pairs on the grid that their scales in 16 bits make, in place.

    A weight rounded to 16 bits, over a scale that is, may lie nearer to another integer. `integer * scale`, with the
    rounded scale, does not: its own rounding moves it by less than half a step (127 * 2**-8 < 1/2 in bfloat16).
    Where the scales have too few bits, the pair stays in float32 and its weight as it is.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for weight in _weights(model):
        if _lost(weight, half) <= numbers.LOST:
            constants[weight.name].CopyFrom(onnx.numpy_helper.from_array(weight.values(half), weight.name))


def faults(model: onnx.ModelProto, half: Half = numbers.FLOAT16) -> dict[str, str]:
    """Nodes of pairs whose scales 16 bits cannot hold -> why. Channels that do not count beside others do not here."""
    import onnx

    lost = {weight.scale: _lost(weight, half) for weight in _weights(model)}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        scale = node.input[1] if node.op_type in PAIR else ""
        if scale in constants and scale not in lost:
            array = onnx.numpy_helper.to_array(constants[scale]).astype(np.float32)
            errors = np.abs(half.stored(array).astype(np.float32) - array) / np.abs(array)
            lost[scale] = float(errors.max(initial=0.0))
        if not lost.get(scale, 0.0) <= numbers.LOST:
            found[node.name] = f"'{scale}': so small that {half.name} keeps too few bits: {lost[scale]:.1%} are lost"
    return found


def together(model: onnx.ModelProto, wide: Collection[str]) -> dict[str, str]:
    """Nodes that stay in float32 beside those that do already -> why: casts between pairs and products part them.

    A product stays with a pair of its own that does, and pairs that nothing but such nodes read stay with those.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    readers: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
            pair = makers.get(name)
            second = pair is not None and pair.op_type == "DequantizeLinear" and pair.name in wide
            if second and pair is not None and node.op_type in PRODUCTS:
                found[node.name] = f"'{pair.name}' in front of it stays in float32"
    for node in model.graph.node:
        read = readers.get(node.output[0], []) if node.op_type == "DequantizeLinear" else []
        if read and all(name in wide or name in found for name in read):
            found[node.name] = f"'{read[0]}' reads it, which stays in float32"
            first = makers.get(node.input[0])
            if first is not None and first.op_type == "QuantizeLinear" and len(readers[node.input[0]]) == 1:
                found[first.name] = found[node.name]
    return {name: reason for name, reason in found.items() if name not in wide}


def _lost(weight: Weight, half: Half) -> float:
    """How far the weight moves with its scales, relative to its size."""
    exact = weight.values().astype(np.float64)
    size = float(np.linalg.norm(exact))
    return float(np.linalg.norm(weight.values(half) - exact)) / size if size else 0.0


def _weights(model: onnx.ModelProto) -> Iterator[Weight]:
    """The float constants that go through symmetric pairs with constant scales."""
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        names = list(node.input)
        if node.op_type != "QuantizeLinear" or len(names) < 3 or not {*names} <= {*constants}:
            continue
        weight, scale, zero = (onnx.numpy_helper.to_array(constants[name]) for name in names)
        if weight.dtype != np.float32 or scale.dtype != np.float32 or zero.astype(np.float32).any():
            continue
        if scale.ndim:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % weight.ndim
            scale = scale.reshape([-1 if place == axis else 1 for place in range(weight.ndim)])
        yield Weight(names[0], names[1], _steps(weight / scale, zero.dtype), scale)


def _steps(values: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """The nearest steps of an 8-bit type, saturated, as QuantizeLinear has it."""
    if kind.kind in "iu":
        ends = np.iinfo(kind)
        whole: np.ndarray = np.clip(np.rint(values), ends.min, ends.max)
        return whole
    found: np.ndarray = np.clip(values, -E4M3, E4M3).astype(kind).astype(np.float32)
    return found
