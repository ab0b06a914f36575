"""The nodes of a model as a person selects them: by ONNX name and ONNX operator type, in ONNX and in OpenVINO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from optimizer.selectors import Node

if TYPE_CHECKING:
    import onnx
    import openvino
    from torch import nn

PAIR = ("QuantizeLinear", "DequantizeLinear")
# ONNX operator types that OpenVINO calls otherwise; both names select.
ONNX_TYPES = {
    "Convolution": ("Conv",),
    "GroupConvolution": ("Conv",),
    "ConvolutionBackpropData": ("ConvTranspose",),
    "MatMul": ("Gemm",),
    "Multiply": ("Mul",),
    "Subtract": ("Sub",),
    "Divide": ("Div",),
    "Clamp": ("Clip",),
    "MVN": ("LayerNormalization", "InstanceNormalization"),
    "AvgPool": ("AveragePool",),
    "ReduceMean": ("GlobalAveragePool",),
    "SoftMax": ("Softmax",),
    "Swish": ("HardSwish", "Mish"),
    "PRelu": ("LeakyRelu",),
    "Interpolate": ("Resize",),
    "LSTMSequence": ("LSTM",),
    "GRUSequence": ("GRU",),
}
PLUMBING = ("Constant", "Parameter", "Result")
WEIGHT = ".weight"


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own: `Conv_3` where there is none, a number added where two are equal."""
    taken: set[str] = {node.name for node in model.graph.node if node.name}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        name, number = f"{node.name or node.op_type}_{index}", 0
        while name in taken:
            number += 1
            name = f"{node.name or node.op_type}_{index}_{number}"
        taken.add(name)
        seen.add(name)
        node.name = name


def onnx_nodes(model: onnx.ModelProto) -> list[Node]:
    """The nodes of the graph, in its order.

    A node answers to its name, its outputs' names, and the module that its weight is called after.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        Node(node.name, (node.op_type,), _aliases(node.name, node.output, (n for n in node.input if n in weights)))
        for node in model.graph.node
    ]


def paired(model: onnx.ModelProto) -> bool:
    """Whether the graph holds Q/DQ pairs."""
    return any(node.op_type in PAIR for node in model.graph.node)


def cast_type(node: onnx.NodeProto) -> int | None:
    """The type that a cast gives; None for any other node."""
    return next((a.i for a in node.attribute if a.name == "to"), None) if node.op_type == "Cast" else None


def captured(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names that the bodies of loops and branches read or give on, once per use; the outer graph's are among them."""
    for node in nodes:
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for inner in body.node:
                    yield from inner.input
                yield from captured(body.node)
                yield from (value.name for value in body.output)


def _aliases(name: str, outputs: Iterable[str], weights: Iterable[str]) -> tuple[str, ...]:
    modules = (w.removesuffix(WEIGHT) for w in weights if w.endswith(WEIGHT))
    return tuple(dict.fromkeys(alias for alias in (*outputs, *modules) if alias and alias != name))


def torch_nodes(module: nn.Module) -> list[Node]:
    """The modules inside a PyTorch module, by path and class."""
    return [Node(name, (type(inner).__name__,)) for name, inner in module.named_modules() if name]


def openvino_nodes(model: openvino.Model) -> list[Node]:
    """The operations of the model, in topological order.

    One ONNX node may have become several operations: `conv1` selects `conv1` and `conv1/WithoutBiases`.
    """
    return [_operation(op) for op in model.get_ordered_ops() if op.get_type_name() not in PLUMBING]


def _operation(op: openvino.Node) -> Node:
    name, kind = op.get_friendly_name(), op.get_type_name()
    outputs = [name.removesuffix("/WithoutBiases"), *sorted({t for port in op.outputs() for t in port.get_names()})]
    makers = [port.get_source_output().get_node() for port in op.inputs()]
    weights = (maker.get_friendly_name() for maker in makers if maker.get_type_name() == "Constant")
    return Node(name, (kind, *ONNX_TYPES.get(kind, ())), _aliases(name, outputs, weights))
