"""FP8 in graph form: the grid is ONNX's bit by bit, what is written is valid, and means what was meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from quant_lab import (
    OPENVINO,
    ORT,
    TENSORRT,
    Bench,
    Data,
    artifact,
    chain,
    convnet,
    error,
    images,
    model,
    outputs,
    prenorm,
    vectors,
    weights,
)

from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.passes import quantize_static
from optimizer.passes.quantize_static import grid
from optimizer.values import Artifact

F8 = np.dtype(ml_dtypes.float8_e4m3fn)
STORED = dataclasses.replace(TENSORRT, qdq_on_weights=False)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def reference(found: Artifact, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [spec.name for spec in found.signature.outputs]
    return dict(zip(names, ReferenceEvaluator(onnx_format.load(found.path)).run(names, feeds), strict=True))


def through_onnx() -> ReferenceEvaluator:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    built = model(nodes, {"x": ["n"], "scale": []}, {"y": ["n"]}, [numpy_helper.from_array(np.zeros((), F8), "zero")])
    return ReferenceEvaluator(built)


EVALUATOR = through_onnx()


@given(arrays.arrays(np.float32, 32, elements=FINITE), st.floats(2.0**-60, 2.0**60, width=32))
def test_the_grid_is_that_of_onnx_and_ml_dtypes_bit_by_bit(values: np.ndarray, scale: float) -> None:
    found = grid.Grid(np.asarray(np.float32(scale)), np.zeros((), F8))
    stored = found.store(values)
    assert stored.dtype == F8 and np.isfinite(stored.astype(np.float32)).all()
    with np.errstate(over="ignore"):
        expected = EVALUATOR.run(None, {"x": values, "scale": np.float32(scale)})[0]
        clipped = np.clip(values / np.float32(scale), -448, 448).astype(F8)
    assert (stored.view(np.uint8) == clipped.view(np.uint8)).all()
    assert ((stored.astype(np.float32) * np.float32(scale)).view(np.uint32) == expected.view(np.uint32)).all()


@given(arrays.arrays(np.float32, (4, 6), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from([None, 0, 1]))
def test_a_weight_keeps_four_bits_and_its_largest_value_whole(weight: np.ndarray, axis: int | None) -> None:
    found = grid.of_weight(weight, axis, False, grid.FLOAT8)
    shape = [-1 if axis == i else 1 for i in range(2)] if axis is not None else []
    scales = np.broadcast_to(found.scale.reshape(shape), weight.shape)
    restored = found.store(weight, axis).astype(np.float32) * scales
    assert not found.zero.astype(np.float32).any() and found.zero.dtype == F8
    # Three bits of mantissa behind the leading one; below the smallest normal number, 2^-6, steps of 2^-9.
    assert (np.abs(restored - weight) <= np.maximum(np.abs(weight) * 2.0**-4, scales * 2.0**-10) * 1.0001).all()


@given(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32))
def test_a_range_reaches_from_end_to_end(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = grid.of_range(low, high, grid.FLOAT8, symmetric=True)
    restored = found.store(np.array([low, 0.0, high])).astype(np.float64) * float(found.scale)
    assert restored[1] == 0 and found.zero.astype(np.float32) == 0
    top = max(-low, high)
    assert top < 1e-30 or np.isclose(np.abs(restored).max(), top, rtol=1e-6)


MODELS: dict[str, tuple[Callable[[], Any], Callable[..., Data]]] = {
    "cnn": (convnet, images),
    "old": (lambda: convnet(opset=13, norm=True), images),
    "deep": (lambda: chain(spread=4.0), images),
    "block": (lambda: prenorm(outlier=4.0), vectors),
}


@pytest.mark.parametrize("options", [{}, {"method": "percentile", "smooth": True, "bias_correction": True}], ids=str)
@pytest.mark.parametrize("scheme", [TENSORRT, STORED], ids=["float-weights", "stored-weights"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_valid_and_runs_alike_everywhere(
    bench: Bench, name: str, scheme: Any, options: dict[str, Any]
) -> None:
    make, data = MODELS[name]
    source = artifact(make(), bench.root / "m")
    found = bench.static(source, scheme, data(64), dtype="fp8", **options)
    written = onnx_format.load(found.path)
    onnx.checker.check_model(written, full_check=True)
    onnx.shape_inference.infer_shapes(written, check_type=True, strict_mode=True, data_prop=True)
    feeds = data(8, seed=9).feeds
    assert error(reference(found, feeds), outputs(found, feeds)) < 1e-5
    assert 0 < error(outputs(source, feeds), outputs(found, feeds)) < 0.2
    kinds = {tensor.data_type for tensor in written.graph.initializer}
    assert TensorProto.FLOAT8E4M3FN in kinds and not kinds & {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32}
    zeros = [t for t in written.graph.initializer if t.name.endswith("zero_point")]
    assert zeros and not any(numpy_helper.to_array(t).astype(np.float32).any() for t in zeros)


def test_a_product_means_what_was_meant(bench: Bench) -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((16, 8)).astype("float32")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    source = artifact(model(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 8]}, weights(w=weight)), bench.root / "m")
    data = vectors(16)
    found = bench.static(source, TENSORRT, data, dtype="fp8")
    x = data.feeds["x"]
    steps, inputs = np.abs(weight).max(axis=0) / np.float32(448), np.abs(x).max() / np.float32(448)
    fake = (
        (x / inputs).astype(F8).astype(np.float32) * inputs @ ((weight / steps).astype(F8).astype(np.float32) * steps)
    )
    assert error({"y": fake}, reference(found, data.feeds)) < 1e-6


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_the_form_that_tensorrt_parses(bench: Bench, dtype: str) -> None:
    found = bench.static(artifact(convnet(), bench.root / "m"), TENSORRT, dtype=dtype)
    graph = onnx_format.load(found.path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs and all(not stored[node.input[2]].astype(np.float32).any() for node in pairs)
    assert not any(array.dtype == np.int32 for array in stored.values())
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [makers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
            assert node.input[2] in stored and stored[node.input[2]].dtype == np.float32
            weight = makers[makers[node.input[1]].input[0]]
            assert weight.op_type == "QuantizeLinear" and stored[weight.input[0]].dtype == np.float32


def test_who_has_no_kernels_says_what_it_accepts(bench: Bench) -> None:
    options = quantize_static.Options(dtype="fp8")
    for scheme in (ORT, OPENVINO):
        assert (
            quantize_static.refuse(options, scheme) == f"{scheme.target} has no kernels for static fp8; accepted: int8"
        )
    assert quantize_static.refuse(options, TENSORRT) is None
    with pytest.raises(OptimizerError, match="no kernels for static fp8; accepted: int8"):
        bench.static(artifact(convnet(), bench.root / "m"), ORT, dtype="fp8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "mse"}, "accepted: minmax, moving-average, percentile"),
        ({"method": "entropy"}, "accepted: minmax"),
        ({"rounding": "adaround"}, "accepted: nearest"),
        ({"reduce_range": True}, "leave it out"),
    ],
)
def test_what_counts_on_even_steps_is_refused(options: dict[str, Any], said: str) -> None:
    assert said in str(quantize_static.refuse(quantize_static.Options(dtype="fp8", **options), TENSORRT))
    assert quantize_static.refuse(quantize_static.Options(**options), TENSORRT) is None
