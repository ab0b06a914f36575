"""Multiply-accumulates of one ONNX node, from the shapes of what goes in and comes out.

The counts follow the operators' definitions (https://onnx.ai/onnx/operators/): one multiplication with one addition
is one. Additions of a bias, activations and normalizations are not counted, as is the custom of the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def count(node: Any, shapes: Shapes) -> int | None:
    """The multiply-accumulates of a node: 0 for an operator without any, None when a shape that decides is unknown."""
    rule = RULES.get(node.op_type)
    if rule is None:
        return 0
    try:
        return rule(node, shapes)
    except KeyError:  # a tensor whose shape was not inferred
        return None


def _convolution(weight: int) -> Callable[[Any, Shapes], int]:
    # Weight (out, in / group, kernel...): every output value sums over the last axes.
    return lambda node, shapes: prod(shapes[node.output[0]]) * prod(shapes[node.input[weight]][1:])


def _transposed(node: Any, shapes: Shapes) -> int:
    # Weight (in, out / group, kernel...): every input value is spread over the last axes.
    return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])


def _product(left: int) -> Callable[[Any, Shapes], int]:
    return lambda node, shapes: prod(shapes[node.output[0]]) * shapes[node.input[left]][-1]


def _gemm(node: Any, shapes: Shapes) -> int:
    transposed = next((a.i for a in node.attribute if a.name == "transA"), 0)
    return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]


def _recurrent(node: Any, shapes: Shapes) -> int:
    # X (length, batch, in) or, with layout 1, (batch, length, in); W (directions, gates * hidden, in), R alike.
    steps = prod(shapes[node.input[0]][:2])
    return steps * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))


def _einsum(node: Any, shapes: Shapes) -> int | None:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    if "." in equation or len(terms) != 2:
        return None
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        sizes.update(zip(term, shapes[name], strict=True))
    return prod(sizes.values())


def _attention(node: Any, shapes: Shapes) -> int | None:
    # Scores and their product with the values: batch * heads * queries * keys * (head size of K + of V).
    query, key, value = (shapes[name] for name in node.input[:3])
    if len(query) != 4:
        return None
    return prod(query[:3]) * key[2] * (key[3] + value[3])


RULES: dict[str, Callable[[Any, Shapes], int | None]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "DeformConv": _convolution(1),
    "ConvTranspose": _transposed,
    "MatMul": _product(0),
    "FusedMatMul": _product(0),
    "MatMulInteger": _product(0),
    "MatMulIntegerToFloat": _product(0),
    "DynamicQuantizeMatMul": _product(0),
    "QLinearMatMul": _product(0),
    "MatMulNBits": _product(0),
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "Einsum": _einsum,
    "Attention": _attention,
}
