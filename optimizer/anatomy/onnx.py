"""An ONNX file taken apart, without loading its external weights and without any runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

from optimizer.anatomy.macs import Shape, count
from optimizer.anatomy.parts import Anatomy, sized
from optimizer.formats import onnx as onnx_format


def dissect(file: Path, dims: Mapping[str, int]) -> Anatomy:
    """Operators, parameters and multiply-accumulates at the sizes `dims` (1 where it is silent).

    Raises OptimizerError when the file is no ONNX model.
    """
    model = onnx_format.parse(file)
    signature = onnx_format.signature(model)
    sizes = sized(signature, dims)
    macs, uncounted = _macs(model, sizes)
    operators = Counter(_name(node) for node in _nodes(model.graph))
    return Anatomy(
        kind="ONNX",
        signature=signature,
        parameters=_parameters(model.graph),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        macs=macs,
        sizes=sizes,
        uncounted=uncounted,
        facts={
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "ir_version": model.ir_version,
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
        },
    )


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of branches and loop bodies included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _name(node: Any) -> str:
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _parameters(graph: Any) -> dict[str, int]:
    import onnx

    found: Counter[str] = Counter()
    for tensor in graph.initializer:
        found[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += prod(tensor.dims)
    renamed = {"float": "float32", "double": "float64"}
    return {renamed.get(name, name): values for name, values in found.most_common()}


def _macs(model: Any, sizes: Mapping[str, int]) -> tuple[int | None, tuple[str, ...]]:
    """The sum over all nodes, and the operators that multiply but whose shapes are unknown."""
    known = shapes(model, sizes)
    counted = [(_name(node), count(node, known)) for node in _nodes(model.graph)]
    unknown = Counter(name for name, macs in counted if macs is None)
    total = sum(macs or 0 for _, macs in counted)
    return (total if total or not unknown else None), tuple(f"{n} {name}" for name, n in unknown.most_common())


def shapes(model: Any, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """The shape of every tensor that shape inference can tell once the free dimensions have sizes."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in [*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info]:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            name = dim.dim_param or (f"{value.name}_{axis}" if not dim.HasField("dim_value") else "")
            if name in sizes:
                dim.dim_value = sizes[name]
    # What an exporter wrote down about inner tensors may name dimensions that no input has.
    del fixed.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    found = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shape = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in shape):
            found[value.name] = tuple(dim.dim_value for dim in shape)
    return found
