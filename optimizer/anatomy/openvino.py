"""An OpenVINO IR taken apart by OpenVINO itself, reshaped to the sizes that are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from optimizer.anatomy.parts import Anatomy, sized
from optimizer.formats import openvino as openvino_format

MULTIPLY = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


def dissect(path: Path, dims: Mapping[str, int]) -> Anatomy:
    """Operators, parameters and multiply-accumulates at the sizes `dims` (1 where it is silent)."""
    model = openvino_format.load(path)
    signature = openvino_format.signature(model)
    sizes = sized(signature, dims)
    shapes = {
        port: [size if isinstance(size, int) else sizes[size] for size in spec.shape]
        for port, spec in zip(model.inputs, signature.inputs, strict=True)
    }
    model.reshape(shapes)
    constants: Counter[str] = Counter()
    operators: Counter[str] = Counter()
    counted, unknown = 0, Counter[str]()
    for op in model.get_ops():
        kind = op.get_type_name()
        operators[kind] += 1
        if kind == "Constant":
            constants[op.get_output_element_type(0).to_string()] += prod(op.get_output_shape(0))
        elif kind in MULTIPLY:
            macs = multiplications(op)
            counted += macs or 0
            unknown[kind] += macs is None
    del operators["Constant"]
    return Anatomy(
        kind="OpenVINO IR",
        signature=signature,
        parameters={openvino_format.TYPES.get(name, name): values for name, values in constants.most_common()},
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        macs=counted,
        sizes=sizes,
        uncounted=tuple(f"{n} {name}" for name, n in unknown.most_common() if n),
    )


def multiplications(op: Any) -> int | None:
    """One operator's count: 0 for one that does not multiply, None while a shape is still free."""
    kind = op.get_type_name()
    if kind not in MULTIPLY:
        return 0
    ports = [op.get_input_partial_shape(0), op.get_input_partial_shape(1), op.get_output_partial_shape(0)]
    if any(port.is_dynamic for port in ports):
        return None
    data, weight, out = (tuple(int(size) for size in port.to_shape()) for port in ports)
    if kind == "MatMul":
        return prod(out) * data[-2 if op.get_attributes().get("transpose_a") else -1]
    if kind == "ConvolutionBackpropData":
        return prod(data) * prod(weight[1:])
    return prod(out) * prod(weight[2 if kind == "GroupConvolution" else 1 :])
