"""What an ONNX graph asks of TensorRT: types of weights, Q/DQ pairs around products, 2:4 patterns in weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from optimizer.formats.nodes import PAIR

if TYPE_CHECKING:
    import numpy as np
    import onnx

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LEFT, OF = 2, 4  # of 4 weights along the input channels at most 2 are not zero


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Type -> how many floating-point weights have it, the most frequent first."""
    import onnx

    named = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.BFLOAT16: "bfloat16",
    }
    found: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        if tensor.data_type in named:
            count = 1
            for dim in tensor.dims:
                count *= dim
            found[named[tensor.data_type]] += count
    return dict(found.most_common())


def quantized(model: onnx.ModelProto) -> tuple[int, int]:
    """How many convolutions and matrix products read Q/DQ pairs on both sides, and how many there are."""
    makers = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type in PRODUCTS]
    return sum(all(dequantized(name, makers) for name in node.input[:2]) for node in products), len(products)


def dequantized(name: str, makers: dict[str, Any]) -> bool:
    """Whether a tensor comes from a Q/DQ pair, perhaps by way of another shape; `makers`: output -> node."""
    node = makers.get(name)
    while node is not None and node.op_type in ("Transpose", "Reshape", "Cast"):
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def sparse(model: onnx.ModelProto) -> list[str]:
    """The layers whose weights have the 2:4 pattern along their input channels: sparse tensor cores can run them."""
    return [node.name or node.output[0] for node, weight in _weights(model) if _follows(weight)]


def _weights(model: onnx.ModelProto) -> Iterator[tuple[Any, np.ndarray]]:
    """Each product with a constant weight, the axis of its input channels moved to the end."""
    import numpy as np
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        name = node.input[1]
        while name in makers and makers[name].op_type in (*PAIR, "Cast"):
            name = makers[name].input[0]
        if name not in tensors or len(tensors[name].dims) < 2:
            continue
        values = numpy_helper.to_array(tensors[name])
        turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        axis = 1 if node.op_type == "Conv" or turned else -2
        yield node, np.moveaxis(values, axis, -1)


def _follows(weight: np.ndarray) -> bool:
    """Whether no run of 4 input channels has more than 2 weights that are not zero."""
    if weight.shape[-1] % OF or not weight.any():
        return False
    return bool(((weight.reshape(-1, OF) != 0).sum(1) <= LEFT).all())
