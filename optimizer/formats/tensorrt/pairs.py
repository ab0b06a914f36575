"""Q/DQ pairs that TensorRT refuses, misreads or cannot use, found in the graph before anything is parsed.

TensorRT takes symmetric int8 and float8 pairs with constant scales. It reads uint8 pairs as int8 with a warning in its
log, so that all values above 127 would be cut off; and a product runs in 8 bits only when both of its factors come from
pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from optimizer.formats.nodes import PAIR
from optimizer.formats.tensorrt.graph import PRODUCTS, dequantized
from optimizer.formats.tensorrt.network import Refusal, place

if TYPE_CHECKING:
    import onnx


def refused(model: onnx.ModelProto) -> list[Refusal]:
    """Pairs that would be refused, or taken for something else."""
    values = _constants(model)
    written = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    # The second of a pair has the scale and zero point of the first: it is not told again.
    first = [node for node in model.graph.node if node.op_type in PAIR and node.input[0] not in written]
    return [found for node in first for found in _faults(node, values)]


def unused(model: onnx.ModelProto) -> list[Refusal]:
    """Products with a pair on one side only: they stay in float, and the pair costs time."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        sides = [dequantized(name, makers) for name in node.input[:2]] if node.op_type in PRODUCTS else []
        if sides and any(sides) and not all(sides):
            which = "input" if sides[0] else "weight"
            reason = f"only its {which} comes from a Q/DQ pair, so it is computed in float"
            found.append(Refusal(node.name or node.output[0], node.op_type, reason, place(node)))
    return found


def _faults(node: Any, values: dict[str, Any]) -> Iterator[Refusal]:
    scale = node.input[1]
    zero = values.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if scale not in values:
        yield _about(node, f"its scale '{scale}' is computed in the graph, it has to be a constant")
    elif (values[scale] <= 0).any():
        yield _about(node, f"its scale '{scale}' holds zero or a negative number")
    if zero is not None and zero.dtype.kind in "iu" and zero.any():
        yield _about(node, f"its zero point is {zero.ravel()[zero.ravel().nonzero()[0][0]]}, it has to be zero")
    elif (zero is not None and zero.dtype == "uint8") or (zero is None and _narrow(node) == "uint8"):
        yield _about(node, "it is of type uint8, which would be read as int8 and cut off above 127")
    stored = values.get(node.input[0])
    if node.op_type == "DequantizeLinear" and stored is not None and stored.dtype == "int32":
        yield _about(node, f"'{node.input[0]}' is a bias in int32, biases have to stay in float")


def _narrow(node: Any) -> str:
    """The type of a pair without a zero point: uint8, unless the attribute says otherwise (ONNX, QuantizeLinear)."""
    if node.op_type == "DequantizeLinear":
        return ""  # the type of its input
    return next(("" for a in node.attribute if a.name == "output_dtype" and a.i), "uint8")


def _about(node: Any, reason: str) -> Refusal:
    return Refusal(node.name or node.output[0], node.op_type, reason, place(node))


def _constants(model: onnx.ModelProto) -> dict[str, Any]:
    """Scales, zero points and stored integers that pairs read, by name."""
    from onnx import numpy_helper

    wanted = {name for node in model.graph.node if node.op_type in PAIR for name in node.input}
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.output[0] in wanted:
            found.update((node.output[0], numpy_helper.to_array(a.t)) for a in node.attribute if a.name == "value")
    return found
