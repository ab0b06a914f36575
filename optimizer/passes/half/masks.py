"""Masks of attention: values so low that the softmax behind them gives no weight, whatever they are exactly.

Exported transformers add -3.4e38, -1e9 or -65504 to the scores that are not to count. None of these survives float16,
where two of them make -inf and a row of -inf makes NaN; a smaller number does the same as they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from optimizer.passes.half.numbers import Half

LOW = -3e4  # a value below this is a mask's
STORED = -1e4  # what such a constant becomes: exp(-1e4) is zero, and six of them fit into float16
REST = 1e3  # values beside the masks must stay within this, so that a masked one never comes near
# Operators that take a softmax, and the places of their inputs that may hold masks.
SOFTMAX = {
    "Softmax": (0,), "SoftMax": (0,), "Attention": (3,), "ScaledDotProductAttention": (3,), "MultiHeadAttention": (5,),
}  # fmt: skip
# What masks pass on the way there, in the words of ONNX and of OpenVINO.
PATH = frozenset((
    "Add", "Sub", "Mul", "Where", "Expand", "Tile", "Concat", "Gather", "Slice", "Reshape", "Transpose", "Unsqueeze",
    "Squeeze", "Flatten", "Identity", "Cast", "Subtract", "Multiply", "Select", "Broadcast", "Convert", "StridedSlice",
))  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """A node by type, and the values that it reads and writes."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]


def behind(operations: Iterable[Operation], outputs: Iterable[str]) -> set[str]:
    """The values that reach nothing but a softmax, by additions, choices and moves; `outputs`: of the model.

    Operations come in topological order.
    """
    outside = {*outputs}
    found: set[str] = set()
    for operation in reversed([*operations]):
        inputs = [name for name in operation.inputs if name]
        if operation.kind in SOFTMAX:
            good = {name for i, name in enumerate(operation.inputs) if name and i in SOFTMAX[operation.kind]}
        else:
            good = {*inputs} if operation.kind in PATH and {*operation.outputs} <= found else set()
        outside |= {*inputs} - good
        found |= good
        found -= outside
    return found


def of_onnx(model: onnx.ModelProto) -> set[str]:
    """The values of an ONNX graph that reach nothing but a softmax."""
    operations = [Operation(node.op_type, list(node.input), list(node.output)) for node in model.graph.node]
    return behind(operations, (value.name for value in model.graph.output))


def saturated(values: np.ndarray) -> np.ndarray:
    """A constant in front of a softmax with its masks as float16 can hold and add them; -inf stays."""
    return np.where((values < LOW) & np.isfinite(values), np.asarray(STORED, values.dtype), values)


def stored(tensor: onnx.TensorProto, half: Half, masked: bool) -> np.ndarray:
    """A constant as 16 bits hold it; `masked`: it reaches nothing but a softmax."""
    import onnx

    values = onnx.numpy_helper.to_array(tensor)
    return half.stored(saturated(values) if masked else values)


def judged(values: np.ndarray) -> np.ndarray:
    """A constant in front of a softmax without what is a mask in it."""
    return np.where(values < LOW, np.asarray(0, values.dtype), values)


def rest(name: str, result: str) -> list[onnx.NodeProto]:
    """Nodes that give a value without what is a mask in it."""
    import onnx

    number = onnx.helper.make_tensor
    low, zero, masked = f"{result}_low", f"{result}_zero", f"{result}_masked"
    return [
        onnx.helper.make_node("Constant", [], [low], low, value=number(low, onnx.TensorProto.FLOAT, [], [LOW])),
        onnx.helper.make_node("Constant", [], [zero], zero, value=number(zero, onnx.TensorProto.FLOAT, [], [0.0])),
        onnx.helper.make_node("Less", [name, low], [masked], masked),
        onnx.helper.make_node("Where", [masked, zero, name], [result], result),
    ]
