"""What operators compute inside and never show: sums and squares that may leave float16 though results do not.

Products (Conv, MatMul, Gemm) are not among them: kernels for float16 add them up in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

SQUARES = frozenset((
    "LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    "InstanceNormalization", "GroupNormalization", "LpNormalization", "ReduceL2", "ReduceSumSquare",
))  # fmt: skip
SUMS = frozenset(("ReduceMean", "ReduceSum", "ReduceL1", "GlobalAveragePool", "ReduceLogSum"))
EXPONENTIALS = frozenset(("Softplus", "Mish", "ReduceLogSumExp"))
WHOLE = {"InstanceNormalization": 2, "GroupNormalization": 1, "GlobalAveragePool": 2}  # first of the axes summed over
AXES_ARE_INPUTS = 18  # opset
SAID = {"ReduceSumSquare": "sums of squares", "ReduceL1": "sums of magnitudes"}


@dataclass(frozen=True)
class Quantity:
    """What a node computes inside: `worst` of the largest value of `output` is its largest magnitude."""

    node: str
    what: str
    output: str
    worst: Callable[[float], float] = float


def quantities(model: onnx.ModelProto, floats: Collection[str]) -> tuple[list[onnx.NodeProto], list[Quantity]]:
    """Nodes to be added to the graph, and what is to be seen then; sums of integers stay what they are."""
    version = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*model.graph.value_info, *model.graph.input)}
    added: list[onnx.NodeProto] = []
    found: list[Quantity] = []
    for index, node in enumerate(model.graph.node):
        name = f"optc_inner{index}"
        if not node.input or node.input[0] not in floats:
            continue
        if node.op_type in SQUARES | SUMS:
            kind = "ReduceSumSquare" if node.op_type in SQUARES else "ReduceL1"
            added += _reduction(kind, node.input[0], name, _axes(node, constants, ranks.get(node.input[0])), version)
            found.append(Quantity(node.name, f"{SAID[kind]} inside reach", name))
        elif node.op_type in EXPONENTIALS:
            found.append(Quantity(node.name, "exponentials inside reach", node.input[0], _exponential))
    return added, found


def _exponential(value: float) -> float:
    return math.exp(min(value, 700.0))


def _axes(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], rank: int | None) -> list[int] | None:
    """The axes that a node sums over; None for all of them, which is never less."""
    import onnx

    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type in WHOLE:
        return list(range(WHOLE[node.op_type], rank)) if rank else None
    if node.op_type.endswith("Normalization"):
        axis = int(attributes.get("axis", -1))
        single = node.op_type == "LpNormalization" or axis == -1
        first = axis if axis < 0 or rank is None else axis - rank
        return [axis] if single else list(range(first, 0)) if first < 0 else None
    if "axes" in attributes:
        return [int(axis) for axis in attributes["axes"]]
    if len(node.input) > 1 and node.input[1] in constants:
        return [int(axis) for axis in onnx.numpy_helper.to_array(constants[node.input[1]]).ravel()] or None
    return None


def _reduction(kind: str, source: str, result: str, axes: list[int] | None, version: int) -> list[onnx.NodeProto]:
    import onnx

    if axes is None:
        return [onnx.helper.make_node(kind, [source], [result], name=result)]
    if version < AXES_ARE_INPUTS:
        return [onnx.helper.make_node(kind, [source], [result], name=result, axes=axes)]
    where = f"{result}_axes"
    return [
        onnx.helper.make_node("Constant", [], [where], name=where, value_ints=axes),
        onnx.helper.make_node(kind, [source, where], [result], name=result),
    ]
