"""QuantizeLinear and DequantizeLinear that ONNX Runtime left in its optimized graph, and what keeps them there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer.targets.onnxruntime import SCHEME

if TYPE_CHECKING:
    import onnx

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FLOATS = (1, 10, 11, 16)  # TensorProto: float, float16, double, bfloat16
NAMED = 4  # nodes that a sentence names


@dataclass(frozen=True)
class Left:
    """A conversion that was not fused."""

    node: str
    op: str
    culprit: str  # operator type that prevents it, or "" at the border of the graph
    culprit_node: str
    why: str


def find(model: onnx.ModelProto) -> list[Left]:
    """Every Q and DQ of an optimized graph with the node that prevents its fusion."""
    graph = model.graph
    maker = {out: node for node in graph.node for out in node.output}
    readers: defaultdict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    whole = {t.name for t in graph.initializer if t.data_type not in FLOATS}
    found = []
    for node in graph.node:
        if node.op_type == QUANTIZE:
            found.append(_quantize(node, maker, {value.name for value in graph.input}))
        elif node.op_type == DEQUANTIZE:
            found.append(_dequantize(node, readers[node.output[0]], maker, whole, {v.name for v in graph.output}))
    return found


def _quantize(node: Any, maker: Mapping[str, Any], inputs: set[str]) -> Left:
    source = maker.get(node.input[0])
    if source is None:
        why = "the model's input arrives in float" if node.input[0] in inputs else "a float constant"
        return Left(node.name, node.op_type, "", "", why)
    return Left(node.name, node.op_type, source.op_type, source.name, f"{source.op_type} computes in float")


def _dequantize(node: Any, readers: list[Any], maker: Mapping[str, Any], whole: set[str], outputs: set[str]) -> Left:
    if node.output[0] in outputs or not readers:
        return Left(node.name, node.op_type, "", "", "the model's output is float")
    reader = next((r for r in readers if r.op_type not in SCHEME.ops), readers[0])
    if reader.op_type not in SCHEME.ops:
        return Left(node.name, node.op_type, reader.op_type, reader.name, f"{reader.op_type} reads float")
    floats = [n for n in reader.input if n and n not in whole and (n not in maker or maker[n].op_type != DEQUANTIZE)]
    if floats:
        why = f"{reader.op_type} also reads '{floats[0]}' in float"
    elif not any(r.op_type == QUANTIZE for r in readers):
        why = f"the output of {reader.op_type} stays float"
    else:
        why = f"{reader.op_type} was not fused"
    return Left(node.name, node.op_type, reader.op_type, reader.name, why)


def sentences(model: onnx.ModelProto, ms: Mapping[str, float], total: float) -> Iterable[str]:
    """One sentence per cause, the most expensive first; the borders of the graph last."""
    groups: defaultdict[tuple[str, str], list[Left]] = defaultdict(list)
    for left in find(model):
        groups[left.op, _general(left)].append(left)

    def cost(group: list[Left]) -> float:
        return sum(ms.get(left.node, 0.0) for left in group)

    for (op, why), group in sorted(groups.items(), key=lambda item: (not item[1][0].culprit, -cost(item[1]))):
        names = ", ".join(f"'{left.culprit_node or left.node}'" for left in group[:NAMED])
        more = f" and {len(group) - NAMED} more" if len(group) > NAMED else ""
        kind = "unfused" if group[0].culprit else "at the border of the graph"
        share = 100 * cost(group) / total if total else 0.0
        yield f"{len(group)} {op} {kind} ({share:.1f} % of the time): {why}; at {names}{more}"


def _general(left: Left) -> str:
    """The cause without the name of one tensor, so that like causes are counted together."""
    return f"{left.culprit} also reads a float tensor" if "also reads" in left.why else left.why
