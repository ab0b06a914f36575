"""Constants that TensorRT has no type for, clamps, or takes for an index without looking where it leads.

Since version 10 (and in TensorRT-RTX) int64 is a type of its own: what lies beyond int32 is kept and computed as it is,
and the last int64 as the end of a Slice is right. Wrong is what nobody tells: an index outside its axis, a float64
beyond float32, an int64 that is cast to int32 and does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer.formats.nodes import cast_type
from optimizer.formats.tensorrt.network import Refusal, place

if TYPE_CHECKING:
    import numpy as np
    import onnx

Shape = tuple[int | None, ...]

INT32_END = 2**31 - 1  # of a dimension, too
FLOAT_END = 3.4028234663852886e38
INDEXED = ("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND")  # the second input holds indices
# Of onnx.TensorProto; seen refused by TensorRT-RTX 1.7, whose message names neither constant nor node.
UNTYPED = {
    4: "uint16", 5: "int16", 8: "string", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
    18: "float8e4m3fnuz", 19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4",
}  # fmt: skip
FLOAT64, INT32, INT64 = 11, 6, 7


@dataclass(frozen=True)
class _Graph:
    """What a node's inputs are known to be."""

    tensors: Mapping[str, onnx.TensorProto]
    shapes: Mapping[str, Shape]


def refused(model: onnx.ModelProto) -> list[Refusal]:
    """The constants that would be refused or changed, each once, by the first node that reads it."""
    graph = _Graph(_tensors(model), _shapes(model))
    found: list[Refusal] = []
    told: set[str] = set()
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            tensor = graph.tensors.get(name)
            reason = _fault(node, number, tensor, graph) if tensor is not None and name not in told else None
            if reason:
                told.add(name)
                found.append(Refusal(node.name or node.output[0], node.op_type, reason, place(node)))
    return found


def _fault(node: Any, number: int, tensor: onnx.TensorProto, graph: _Graph) -> str | None:
    """What is wrong with a constant as this input of a node, or None."""
    name = node.input[number]
    if tensor.data_type in UNTYPED:
        return f"its constant '{name}' is {UNTYPED[tensor.data_type]}, a type that the parser does not know"
    if tensor.data_type == FLOAT64 and (beyond := _beyond(_values(tensor), FLOAT_END)) is not None:
        return f"its constant '{name}' holds {beyond:.3g}; float64 becomes float32, which ends at {FLOAT_END:.2g}"
    if tensor.data_type != INT64:
        return None
    if cast_type(node) == INT32:
        out = _beyond(_values(tensor), INT32_END)
        return None if out is None else f"its constant '{name}' holds {int(out)}, which int32 cannot hold"
    if node.op_type in INDEXED and number == 1:
        return _outside(node, _values(tensor), graph)
    return None


def _beyond(values: np.ndarray, end: float) -> Any | None:
    """The first finite value whose magnitude is beyond the end, or None."""
    import numpy as np

    found = values[(np.abs(values.astype(np.float64)) > end) & np.isfinite(values)]
    return found.flat[0] if found.size else None


def _outside(node: Any, indices: np.ndarray, graph: _Graph) -> str | None:
    """Which index lies outside the axis that it counts along, or None."""
    shape = graph.shapes.get(node.input[0])
    if node.op_type.endswith("ND"):
        first = _attribute(node, "batch_dims", 0)
        columns = [(first + n, indices[..., n]) for n in range(indices.shape[-1] if indices.ndim else 0)]
    else:
        columns = [(_attribute(node, "axis", 0), indices)]
    for axis, values in columns:
        known = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        size = INT32_END if known is None else known
        bad = values[(values < -size) | (values >= size)]
        if bad.size:
            what = f"axis {axis} of '{node.input[0]}', which has {known}" if known is not None else "any axis"
            return f"its index {bad.flat[0]} lies outside {what}; TensorRT does not check it"
    return None


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _values(tensor: onnx.TensorProto) -> np.ndarray:
    """The numbers of a tensor; none where they lie in another file that was not loaded."""
    import numpy as np
    from onnx import numpy_helper

    if tensor.data_location == tensor.EXTERNAL:
        return np.zeros(0, np.int64)
    found: np.ndarray = numpy_helper.to_array(tensor)
    return found


def _tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the values of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def _shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """The shapes that the file states or holds; None for a free dimension."""
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    found: dict[str, Shape] = {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in values
        if v.type.tensor_type.HasField("shape")
    }
    return found | {name: tuple(tensor.dims) for name, tensor in _tensors(model).items()}
