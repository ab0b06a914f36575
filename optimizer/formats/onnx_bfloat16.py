"""bfloat16 graphs on machines without it: the same graph in float32 that rounds to bfloat16 wherever that one does.

ONNX Runtime's CPU provider has no kernels for bfloat16 but Cast. The copy gives what the graph says, with products that
are added up in float32, as GPUs do.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from optimizer.formats.nodes import cast_type

if TYPE_CHECKING:
    import onnx

FLOAT, BFLOAT16 = 1, 16  # of onnx.TensorProto
MARK = "optc.emulates"  # key of the copy's metadata


def holds(model: onnx.ModelProto) -> bool:
    """Whether any constant is, or any cast leads to, bfloat16."""
    return any(tensor.data_type == BFLOAT16 for tensor in model.graph.initializer) or any(
        cast_type(node) == BFLOAT16 for node in model.graph.node
    )


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model, external data included, in float32; every bfloat16 value in it is one of bfloat16's."""
    model = copy.deepcopy(model)
    graph = model.graph
    narrow = {name for name, kind in _types(model).items() if kind == BFLOAT16}
    for tensor in graph.initializer:
        _widen(tensor)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in narrow or cast_type(node) == BFLOAT16:
                node.output[place] = f"optc_exact_{name}"
                nodes += _rounding(f"optc_exact_{name}", name)
    del graph.node[:]
    graph.node.extend(nodes)
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == BFLOAT16:
            value.type.tensor_type.elem_type = FLOAT
    entry = model.metadata_props.add()
    entry.key, entry.value = MARK, "bfloat16"
    return model


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Value -> its type, as far as the file states it, else as ONNX infers it."""
    import onnx.shape_inference

    stated = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    if all(stated.get(name) for node in model.graph.node for name in node.output if name):
        return stated
    found = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*found.value_info, *found.output)}


def _widen(tensor: Any) -> None:
    """The same numbers as float32."""
    import numpy as np
    import onnx

    if tensor.data_type == BFLOAT16:
        values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _rounding(source: str, result: str) -> list[onnx.NodeProto]:
    """Nodes that round a float32 or bfloat16 value to bfloat16 and give it as float32."""
    import onnx

    half = f"optc_half_{result}"
    return [
        onnx.helper.make_node("Cast", [source], [half], f"optc_narrow_{result}", to=BFLOAT16),
        onnx.helper.make_node("Cast", [half], [result], f"optc_round_{result}", to=FLOAT),
    ]
