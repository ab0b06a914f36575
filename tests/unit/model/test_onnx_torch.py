"""Every operator of formats/onnx_torch against ONNX Runtime, one node at a time, and graphs as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import quant_lab as lab
import torch
from onnx import helper, numpy_helper

from optimizer.errors import OptimizerError
from optimizer.formats import onnx_torch

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


X4, X3, X2 = normal(2, 4, 7, 6), normal(2, 5, 8), normal(3, 6)
CONV = (normal(6, 2, 3, 3), normal(6))
MASK = RANDOM.random((3, 6)) < 0.5
HEADS = (normal(2, 5, 8), normal(2, 5, 8), normal(24))
PADDING = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], np.int32)
FLOOR = np.float32(0.5)

# Operator, attributes, inputs (None: left out), number of outputs that are compared.
CASES: list[tuple[str, dict[str, Any], list[np.ndarray | None]]] = [
    *((kind, {}, [X2, normal(6)]) for kind in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean", "PRelu")),
    *((kind, {}, [X2, normal(6)]) for kind in ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
    *((kind, {}, [X2]) for kind in ("Exp", "Neg", "Abs", "Erf", "Tanh", "Sigmoid", "Relu", "Sin", "Cos", "Floor")),
    *((kind, {}, [X2]) for kind in ("Ceil", "Round", "Sign", "Reciprocal", "HardSwish", "HardSigmoid", "LeakyRelu")),
    *((kind, {}, [X2]) for kind in ("Elu", "Softplus", "Mish", "Gelu", "Softmax", "LogSoftmax", "Flatten", "Identity")),
    *((kind, {}, [np.abs(X2) + 1]) for kind in ("Sqrt", "Log")),
    *((kind, {}, [MASK, ~MASK]) for kind in ("And", "Or", "Xor")),
    ("Not", {}, [MASK]), ("Where", {}, [MASK, X2, normal(6)]), ("Div", {}, [ints(7, -7, 9), ints(2, 2, 4)]),
    ("Pow", {}, [np.abs(X2), np.float32(2.5)]), ("Pow", {}, [ints(2, 3), np.array([2.0, 1.0], np.float32)]),
    ("Mod", {}, [ints(7, -7, 9), ints(3, 3, -4)]), ("Mod", {"fmod": 1}, [X2, np.full(6, 0.3, np.float32)]),
    ("Clip", {}, [X2, None, FLOOR]), ("Clip", {}, [X2, -FLOOR, FLOOR]), ("Clip", {}, [X2]),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, [X2]), ("LeakyRelu", {"alpha": 0.3}, [X2]),
    ("Gelu", {"approximate": "tanh"}, [X2]), ("Softmax", {"axis": 1}, [X3]), ("Elu", {"alpha": 0.5}, [X2]),
    ("CumSum", {}, [X3, ints(1).reshape(())]), ("ArgMax", {"axis": 1, "keepdims": 0}, [X3]), ("IsNaN", {}, [X2]),
    *((kind, {"keepdims": keep}, [X3, axes]) for keep in (0, 1) for axes in (ints(1, 2), ints(-1), None)
      for kind in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare",
                   "ReduceLogSumExp")),
    ("ReduceSum", {"noop_with_empty_axes": 1}, [X3]),
    ("Conv", {"group": 2, "pads": [1, 1, 1, 1]}, [X4, *CONV]), ("Conv", {"group": 2, "strides": [2, 2]}, [X4, CONV[0]]),
    ("Conv", {"group": 2, "pads": [0, 1, 2, 1], "dilations": [2, 1]}, [X4, *CONV]),
    ("Conv", {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 2]}, [X4, *CONV]),
    ("Conv", {"group": 2, "auto_pad": "SAME_LOWER", "strides": [2, 2]}, [X4, *CONV]),
    ("Conv", {}, [X3, normal(4, 5, 3)]), ("ConvTranspose", {"strides": [2, 2]}, [X4, normal(4, 3, 3, 3), normal(3)]),
    ("ConvTranspose", {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 1]}, [X4, normal(4, 3, 3, 3)]),
    ("ConvTranspose", {"pads": [1, 1, 1, 1]}, [X4, normal(4, 3, 3, 3)]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [X4]),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 1, 0]}, [X4]),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, [X4]),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, [X4]),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}, [X4]),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0]}, [X4]),
    ("AveragePool", {"kernel_shape": [3, 3], "pads": [0, 1, 1, 0], "count_include_pad": 1}, [X4]),
    ("GlobalAveragePool", {}, [X4]), ("GlobalMaxPool", {}, [X4]), ("MatMul", {}, [X3, normal(8, 4)]),
    ("Gemm", {"transB": 1, "alpha": 0.5, "beta": 2.0}, [X2, normal(4, 6), normal(4)]),
    ("Gemm", {"transA": 1}, [X2, normal(3, 4)]), ("Einsum", {"equation": "bij,bkj->bik"}, [X3, X3]),
    ("BatchNormalization", {}, [X4, normal(4), normal(4), normal(4), np.abs(normal(4)) + 1]),
    ("InstanceNormalization", {}, [X4, normal(4), normal(4)]),
    ("LayerNormalization", {}, [X3, normal(8), normal(8)]), ("LayerNormalization", {"axis": 1}, [X3, normal(5, 8)]),
    ("Resize", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
     [X4, None, np.array([1, 1, 2, 2], np.float32)]),
    ("Resize", {"mode": "nearest"}, [X4, None, np.array([1, 1, 2, 2], np.float32)]),
    ("Resize", {"mode": "linear"}, [X4, None, None, ints(2, 4, 14, 9)]),
    ("Resize", {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
     [X4, None, None, ints(2, 4, 9, 9)]),
    ("Reshape", {}, [X3, ints(0, -1, 4)]), ("Flatten", {"axis": 2}, [X4]), ("Transpose", {}, [X3]),
    ("Transpose", {"perm": [0, 2, 1]}, [X3]), ("Concat", {"axis": 1}, [X3, X3]),
    ("Slice", {}, [X3, ints(1, -3), ints(4, 9), ints(1, 2)]),
    ("Slice", {}, [X3, ints(-1), ints(-99), ints(2), ints(-2)]),
    ("Slice", {}, [X2, ints(0, 1), ints(3, 5)]), ("Gather", {"axis": 1}, [X3, ints(0, -1, 2)]),
    ("Gather", {}, [X2, np.array([[0, 2], [1, 1]])]), ("GatherElements", {"axis": 1}, [X2, np.array([[0], [-1], [3]])]),
    ("GatherND", {}, [X3, np.array([[[0, 1], [1, -2]]])]),
    ("GatherND", {"batch_dims": 1}, [X3, np.array([[[0, 3]], [[4, -1]]])]),
    ("Unsqueeze", {}, [X2, ints(0, -1)]), ("Squeeze", {}, [X2[:1, None], ints(0, 1)]), ("Squeeze", {}, [X2[:1]]),
    ("Expand", {}, [X2[:1], ints(2, 1, 6)]), ("Tile", {}, [X2, ints(2, 1)]),
    ("Pad", {}, [X2, ints(0, 1, 2, 0), np.float32(3)]), ("Pad", {}, [X3, ints(1, 2), None, ints(-1)]),
    ("Pad", {"mode": "reflect"}, [X4, ints(0, 0, 1, 2, 0, 0, 2, 1)]),
    ("Pad", {"mode": "edge"}, [X4, ints(0, 0, 1, 2, 0, 0, 2, 1)]), ("Cast", {"to": onnx.TensorProto.INT64}, [X2 * 3]),
    ("CastLike", {}, [X2 * 3, ints(1)]), ("Shape", {}, [X3]), ("Shape", {"start": 1, "end": -1}, [X3]),
    ("ConstantOfShape", {"value": numpy_helper.from_array(np.array([2.5], np.float32))}, [ints(2, 3)]),
    ("Range", {}, [ints(1).reshape(()), ints(9).reshape(()), ints(3).reshape(())]), ("Trilu", {}, [X3]),
    ("Trilu", {"upper": 0}, [X3, ints(1).reshape(())]), ("DepthToSpace", {"blocksize": 2}, [X4]),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, [X4]), ("SpaceToDepth", {"blocksize": 2}, [X4[:, :, :6]]),
    ("Constant", {"value": numpy_helper.from_array(X2)}, []), ("Constant", {"value_ints": [1, 2]}, []),
    ("Constant", {"value_float": 1.5}, []), ("Dropout", {}, [X2]),
]  # fmt: skip
MICROSOFT: list[tuple[str, dict[str, Any], list[np.ndarray | None]]] = [
    ("Gelu", {}, [X2]), ("BiasGelu", {}, [X2, normal(6)]), ("FastGelu", {}, [X2, normal(6)]), ("FastGelu", {}, [X2]),
    ("QuickGelu", {"alpha": 1.5}, [X2]), ("SkipLayerNormalization", {}, [X3, X3, normal(8), normal(8), normal(8)]),
    ("SkipLayerNormalization", {"epsilon": 1e-3}, [X3, X3, normal(8)]),
    ("MultiHeadAttention", {"num_heads": 2}, [X3, *HEADS]),
    ("MultiHeadAttention", {"num_heads": 2, "scale": 0.3}, [X3, HEADS[0], HEADS[1]]),
    ("MultiHeadAttention", {"num_heads": 2}, [X3, *HEADS, None, normal(2, 1, 5, 5)]),
    ("MultiHeadAttention", {"num_heads": 2}, [X3, *HEADS, PADDING]),
    ("MultiHeadAttention", {"num_heads": 2, "unidirectional": 1}, [X3, *HEADS]),
]  # fmt: skip


def single(
    kind: str, attributes: dict[str, Any], inputs: list[np.ndarray | None], domain: str, outputs: int = 1
) -> Any:
    """A model of one node, and its feeds. What says how (a shape, axes) are inputs like all others."""
    feeds = {f"x{i}": np.asarray(a) for i, a in enumerate(inputs) if a is not None}
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)]
    node = helper.make_node(
        kind, names, [f"y{i}" for i in range(outputs)], name=kind.lower(), domain=domain, **attributes
    )
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape))
        for n, a in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)]
    graph = helper.make_graph([node], "single", values, results)
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    built = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(built), feeds


def runtime(built: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    found: list[np.ndarray] = onnxruntime.InferenceSession(built.SerializeToString()).run(None, feeds)
    return found


def ours(built: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    module = onnx_torch.convert(built, onnx_torch.weights(built))
    return [tensor.detach().numpy() for tensor in module(onnx_torch.feeds_of(feeds)).values()]


def every() -> list[Any]:
    both = [(*case, "") for case in CASES] + [(*case, "com.microsoft") for case in MICROSOFT]
    return [pytest.param(*case, id=f"{case[0]}-{i}") for i, case in enumerate(both)]


@pytest.mark.parametrize(("kind", "attributes", "inputs", "domain"), every())
def test_an_operator_computes_what_onnx_runtime_does(
    kind: str, attributes: dict[str, Any], inputs: list[np.ndarray | None], domain: str
) -> None:
    built, feeds = single(kind, attributes, inputs, domain)
    (wanted,), (found,) = runtime(built, feeds), ours(built, feeds)
    assert found.dtype == wanted.dtype and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [None, ints(2, 3), ints(1, 4)])
def test_a_tensor_is_split_into_given_or_equal_parts(sizes: np.ndarray | None) -> None:
    attributes = {"axis": 1} | ({"num_outputs": 2} if sizes is None else {})
    built, feeds = single("Split", attributes, [X3] if sizes is None else [X3, sizes], "", outputs=2)
    for found, wanted in zip(ours(built, feeds), runtime(built, feeds), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("kind", "attributes", "inputs", "reason"),
    [
        ("Resize", {"mode": "cubic"}, [X4, None, np.array([1, 1, 2, 2], np.float32)], "mode cubic"),
        ("CumSum", {"exclusive": 1}, [X3, ints(1).reshape(())], "the element itself"),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, [X4], "dilated"),
        ("Pad", {"mode": "wrap"}, [X4, ints(0, 0, 1, 1, 0, 0, 1, 1)], "mode wrap"),
        ("ArgMax", {"select_last_index": 1}, [X3], "the first"),
    ],
)
def test_a_form_without_counterpart_is_refused_by_name(
    kind: str, attributes: dict[str, Any], inputs: list[np.ndarray | None], reason: str
) -> None:
    built, feeds = single(kind, attributes, inputs, "")
    with pytest.raises(OptimizerError, match=f"'{kind.lower()}' .*{reason}"):
        ours(built, feeds)


def test_an_operator_without_a_function_is_refused_before_anything_runs() -> None:
    built, _ = single("NonZero", {}, [X2], "")
    with pytest.raises(OptimizerError, match="training cannot differentiate NonZero: NonZero 'nonzero'"):
        onnx_torch.convert(built, ())
    assert onnx_torch.unknown_kinds(built) == ["NonZero"]
    [node] = (node for node in built.graph.node if node.op_type == "NonZero")
    node.name = ""
    with pytest.raises(OptimizerError, match=f"NonZero '{node.output[0]}'"):
        onnx_torch.convert(built, ())


@pytest.mark.parametrize(
    ("built", "data"),
    [
        (lab.convnet(norm=True), lab.images()), (lab.chain(), lab.images()), (lab.attention(), lab.tokens()),
        (lab.block(), lab.words()), (lab.prenorm(), lab.vectors()),
    ],
    ids=["norm", "chain", "attention", "block", "prenorm"],
)  # fmt: skip
def test_a_graph_computes_the_same_and_has_gradients_for_its_weights(built: Any, data: lab.Data) -> None:
    feeds = dict(next(iter(data.batches(4))).feeds)
    module = onnx_torch.convert(built, onnx_torch.weights(built))
    found = module(onnx_torch.feeds_of(feeds))
    for tensor, wanted in zip(found.values(), runtime(built, feeds), strict=True):
        np.testing.assert_allclose(tensor.detach().numpy(), wanted, rtol=1e-3, atol=1e-5)
    sum(tensor.square().sum() for tensor in found.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())


def test_what_is_learnt_are_weights_and_biases_not_masks_or_sizes() -> None:
    assert set(onnx_torch.weights(lab.attention())) == {"table.weight", "query.weight", "key.weight", "out.weight"}
    assert set(onnx_torch.weights(lab.block())) == {
        "table.weight", "scale", "shift", "up.weight", "gate.weight", "down.weight", "down.bias"
    }  # fmt: skip
    assert "axes" not in onnx_torch.weights(lab.chain())


def test_learnt_values_come_back_by_name() -> None:
    built = lab.chain()
    module: Any = onnx_torch.convert(built, ["a.weight"])
    with torch.no_grad():
        module.learnt[0].mul_(2)
    (name, found), *others = onnx_torch.values_of(module).items()
    original = next(numpy_helper.to_array(t) for t in built.graph.initializer if t.name == "a.weight")
    assert name == "a.weight" and not others
    np.testing.assert_array_equal(found, 2 * original)
