"""An ONNX file taken apart, without its external weights (only shapes are read there) and without any runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from optimizer.anatomy.macs import Shape, count
from optimizer.anatomy.parts import Anatomy, sized
from optimizer.formats import onnx as onnx_format


def dissect(file: Path, dims: Mapping[str, int]) -> Anatomy:
    """Operators, parameters and multiply-accumulates at the sizes `dims` (1 where it is silent); missing data files.

    Raises OptimizerError when the file is no ONNX model.
    """
    model = onnx_format.parse(file)
    missing = tuple(name for name in onnx_format.external_files(model) if not (file.parent / name).is_file())
    onnx_format.read_external_shapes(model, file.parent)
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
        missing=missing,
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


@dataclass(frozen=True)
class Packed:
    """Weights that an operator of ONNX Runtime reads as integers of less than a byte, or with a scale per group."""

    node: Any
    codes: str  # the initializer
    bits: int
    shape: Shape  # of the weights, as MatMul or Gather would read them


def packed_weights(graph: Any) -> list[Packed]:
    """The integer weights of MatMulNBits and GatherBlockQuantized."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found = []
    for node in _nodes(graph):
        numbers = {a.name: a.i for a in node.attribute}
        bits = numbers.get("bits", 4)
        if node.op_type == "MatMulNBits":
            found.append(Packed(node, node.input[1], bits, (numbers["K"], numbers["N"])))
        elif node.op_type == "GatherBlockQuantized" and node.input[0] in dims:
            rows, *columns = dims[node.input[0]]
            found.append(Packed(node, node.input[0], bits, (rows, prod(columns) * 8 // bits)))
    return found


def _unpack(graph: Any) -> None:
    """Put operators of ONNX in the place of those that read packed weights: shape inference knows no others."""
    import onnx

    for packed in packed_weights(graph):
        node = packed.node
        weight = f"{node.output[0]}_weights"
        graph.input.append(onnx.helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, packed.shape))
        product = node.op_type == "MatMulNBits"
        inputs = [node.input[0], weight] if product else [weight, node.input[1]]
        node.CopyFrom(onnx.helper.make_node("MatMul" if product else "Gather", inputs, node.output, name=node.name))


def _parameters(graph: Any) -> dict[str, int]:
    """Type -> how many values; packed weights count as the weights that they hold."""
    import onnx

    packed = {p.codes: (f"int{p.bits}", prod(p.shape)) for p in packed_weights(graph)}
    found: Counter[str] = Counter()
    for tensor in graph.initializer:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        name, values = packed.get(tensor.name, (kind, prod(tensor.dims)))
        found[name] += values
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
    _unpack(fixed.graph)
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
