"""Products and lookups of an ONNX graph with integer weights: MatMulNBits and GatherBlockQuantized of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import absorb
from optimizer.formats.layers import Graph
from optimizer.passes.quantize_weights.grid import Quantized
from optimizer.passes.quantize_weights.layers import FLOAT, Layer, attributes
from optimizer.passes.quantize_weights.packing import packed

if TYPE_CHECKING:
    import onnx

DOMAIN, OPSET = "com.microsoft", 1


@dataclass(frozen=True)
class Edit:
    """What takes the place of a node, or stands before it: nodes, the constants that they read, values between them."""

    nodes: tuple[onnx.NodeProto, ...]
    tensors: tuple[onnx.TensorProto, ...]
    inner: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of the constants."""
        return sum(len(tensor.raw_data) for tensor in self.tensors)


def product(node: onnx.NodeProto, source: str, found: Quantized, accuracy_level: int) -> Edit:
    """MatMulNBits on the tensor `source` in the place of MatMul or Gemm, whose bias is added by a node of its own."""
    import onnx

    bits = found.grid.bits
    tensors = [
        onnx.numpy_helper.from_array(packed(found.codes, bits), f"{node.name}_codes"),
        *_steps(node, found),
    ]
    settings = {"K": found.width, "N": len(found.codes), "bits": bits, "block_size": found.grid.group}
    settings["accuracy_level"] = accuracy_level
    bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
    output = f"{node.name}_unbiased" if bias else node.output[0]
    inputs = [source, *(tensor.name for tensor in tensors)]
    made = [onnx.helper.make_node("MatMulNBits", inputs, [output], name=node.name, domain=DOMAIN, **settings)]
    if not bias:
        return Edit(tuple(made), tuple(tensors))
    inner = [output]
    beta = float(attributes(node).get("beta", 1.0))
    if beta != 1:
        scaled = f"{node.name}_beta"
        tensors.append(onnx.numpy_helper.from_array(np.float32(beta), scaled))
        inner.append(f"{node.name}_bias_scaled")
        made.append(onnx.helper.make_node("Mul", [bias, scaled], inner[-1:], name=inner[-1]))
        bias = inner[-1]
    made.append(onnx.helper.make_node("Add", [output, bias], node.output, name=f"{node.name}_bias"))
    return Edit(tuple(made), tuple(tensors), tuple(inner))


def lookup(node: onnx.NodeProto, found: Quantized) -> Edit:
    """GatherBlockQuantized in the place of Gather."""
    import onnx

    rows = found.codes.reshape(len(found.codes), -1)[:, : found.width]
    codes = onnx.numpy_helper.from_array(packed(rows, found.grid.bits), f"{node.name}_codes")
    scales, *zeros = _steps(node, found)
    settings = {"bits": found.grid.bits, "block_size": found.grid.group, "gather_axis": 0, "quantize_axis": 1}
    inputs = [codes.name, node.input[1], scales.name, *(tensor.name for tensor in zeros)]
    made = onnx.helper.make_node("GatherBlockQuantized", inputs, node.output, name=node.name, domain=DOMAIN, **settings)
    return Edit((made,), (codes, scales, *zeros))


def _steps(node: onnx.NodeProto, found: Quantized) -> list[onnx.TensorProto]:
    """Scales and zero points; the runtime knows the zero points of a symmetric grid by itself."""
    import onnx

    tensors = [onnx.numpy_helper.from_array(found.steps.scales, f"{node.name}_scales")]
    if not found.grid.symmetric:
        zeros = packed(found.steps.zeros, found.grid.bits)
        tensors.append(onnx.numpy_helper.from_array(zeros, f"{node.name}_zero_points"))
    return tensors


def divided(graph: Graph, layers: Sequence[Layer], factors: np.ndarray) -> tuple[str, Edit, str]:
    """Divide the tensor that the layers share by `factors` (k,): the node to edit, the edit, what the layers read now.

    A normalization that nothing but the layers reads takes the factors into its constants, which costs nothing.
    """
    import onnx

    name = layers[0].input
    norm = graph.makers.get(name)
    if norm is not None and norm.op_type in absorb.NORMS and not absorb.others(graph, name, {n.name for n in layers}):
        constants = absorb.norm(graph, norm, len(factors)).constants
        if constants:
            return norm.name, _divided_norm(graph, norm, {constant.name for constant in constants}, factors), name
    inverse = onnx.numpy_helper.from_array((1 / factors).astype(np.float32), f"{name}_inverse_factors")
    result = f"{name}_divided"
    made = onnx.helper.make_node("Mul", [name, inverse.name], [result], name=result)
    return layers[0].name, Edit((made,), (inverse,), (result,)), result


def _divided_norm(graph: Graph, norm: onnx.NodeProto, constants: set[str], factors: np.ndarray) -> Edit:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(norm)
    new = []
    for place, name in enumerate(norm.input):
        if name in constants:
            made.input[place] = f"{norm.name}_divided_{place}"
            values = (graph.array(name) / factors).astype(np.float32)
            new.append(onnx.numpy_helper.from_array(values, made.input[place]))
    return Edit((made,), tuple(new))


def apply(model: onnx.ModelProto, edits: Mapping[str, Sequence[Edit]]) -> None:
    """Put the edits in the place of the nodes that they are named after; what nobody reads any more is dropped."""
    import onnx

    graph = model.graph
    every = [n for node in graph.node for n in _replaced(node, edits)]
    made = [edit for found in edits.values() for edit in found]
    _share(every, [tensor for edit in made for tensor in edit.tensors], graph)
    outputs = {output.name for output in graph.output}
    living = _living(every, outputs)
    del graph.node[:]
    graph.node.extend(living)
    read = {name for node in living for name in node.input} | outputs
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    inner = [name for edit in made for name in edit.inner]
    graph.value_info.extend(onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in inner)
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, OPSET))


def _replaced(node: onnx.NodeProto, edits: Mapping[str, Sequence[Edit]]) -> list[onnx.NodeProto]:
    return [new for edit in edits[node.name] for new in edit.nodes] if node.name in edits else [node]


def _share(nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto], graph: onnx.GraphProto) -> None:
    """Add the tensors to the graph, equal ones once: layers that shared their weights still do."""
    first: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    for tensor in tensors:
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        renamed[tensor.name] = first.setdefault(key, tensor.name)
        if renamed[tensor.name] == tensor.name:
            graph.initializer.append(tensor)
    for node in nodes:
        if any(renamed.get(name, name) != name for name in node.input):
            node.input[:] = [renamed.get(name, name) for name in node.input]


def _living(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes, in order, without those whose results nobody reads: transposes of weights that were replaced."""
    read = set(outputs)
    found = []
    for node in reversed(nodes):
        if any(name in read for name in node.output):
            found.append(node)
            read.update(node.input)
    return found[::-1]
