"""Where pairs go and what is written: rules that cost accuracy or speed when they are broken."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper
from quant_lab import ORT, Bench, artifact, convnet, error, images, model, op_types, outputs, tokens, weights

from optimizer.formats import onnx as onnx_format
from optimizer.passes.quantize_static import grid
from optimizer.targets import onnxruntime as ort_target
from optimizer.values import Artifact

TENSORRT = dataclasses.replace(
    ORT, activation="int8", activation_symmetric=True, quantize_bias=False, qdq_on_weights=True, float_outputs=()
)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def residual() -> onnx.ModelProto:
    """Lookup, normalization, product, and a residual sum around the product: (n, 5) int64 -> (n, 5, 8)."""
    random = np.random.default_rng(0)
    tensors = {"table": random.standard_normal((20, 8)), "w.weight": random.standard_normal((8, 8)) / 3}
    tensors |= {"gain": np.ones(8), "shift": np.zeros(8)}
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["x"], name="embed"),
        helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], name="norm"),
        helper.make_node("MatMul", ["n", "w.weight"], ["m"], name="product"),
        helper.make_node("Add", ["m", "n"], ["y"], name="sum"),
    ]
    stored = weights(**{n: a.astype(np.float32) for n, a in tensors.items()})
    kinds = {"tokens": onnx.TensorProto.INT64}
    return model(nodes, {"tokens": ["n", 5]}, {"y": ["n", 5, 8]}, stored, kinds=kinds)


def graph(found: Artifact) -> onnx.GraphProto:
    return onnx_format.load(found.path).graph


def inputs(found: Artifact, name: str) -> list[str]:
    return next(list(node.input) for node in graph(found).node if node.name == name)


def tensor(found: Artifact, name: str) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(t) for t in graph(found).initializer if t.name == name)


def test_a_residual_sum_in_float_does_not_read_what_was_rounded_for_the_product(bench: Bench) -> None:
    found = bench.static(artifact(residual(), bench.root / "m"), data=tokens())
    assert inputs(found, "product")[0] == "n_DequantizeLinear_Output"
    assert inputs(found, "sum") == ["m", "n"]


def test_a_sum_joins_only_behind_a_kernel_that_writes_8_bits_or_when_asked_for(bench: Bench) -> None:
    source = artifact(residual(), bench.root / "m")
    bench.static(source, data=tokens(), model="cnn")
    assert bench.notes["quantized"] == {"Gather": 1, "MatMul": 1}
    bench.static(source, data=tokens(), model="cnn", ops=["MatMul", "Add"])
    assert bench.notes["quantized"] == {"MatMul": 1, "Add": 1}
    bench.static(artifact(convnet(), bench.root / "m2"))
    assert bench.notes["quantized"]["Add"] == 1


def test_a_relu_goes_where_storing_clips_and_stays_where_zero_is_in_the_middle(bench: Bench) -> None:
    source = artifact(convnet(), bench.root / "m")
    assert op_types(bench.static(source)).count("Relu") == 0
    found = bench.static(source, TENSORRT)
    assert op_types(found).count("Relu") == 2
    relu = next(node for node in graph(found).node if node.name == "relu1")
    maker = next(node for node in graph(found).node if relu.input[0] in node.output)
    assert maker.op_type == "Conv", "a pair between would keep the two from being one kernel"


def test_a_table_is_looked_up_in_8_bits_and_restored_behind(bench: Bench, tmp_path: Path) -> None:
    found = bench.static(artifact(residual(), bench.root / "m"), data=tokens())

    def configure(settings: object) -> None:
        settings.optimized_model_filepath = str(tmp_path / "o.onnx")  # type: ignore[attr-defined]  # untyped library

    onnx_format.inference_session(found.path, 1, "extended", configure=configure)
    nodes = onnx.load(tmp_path / "o.onnx").graph.node
    assert next(n for n in nodes if n.op_type == "Gather").input[0] == "table_quantized", "not the whole table per call"


def test_layers_that_share_weight_and_bias_store_the_weight_once(bench: Bench) -> None:
    random = np.random.default_rng(0)
    stored = weights(w=random.standard_normal((8, 8)).astype("float32"), b=random.standard_normal(8).astype("float32"))
    nodes = [
        helper.make_node("Gemm", ["image", "w", "b"], ["a"], name="one"),
        helper.make_node("Gemm", ["a", "w", "b"], ["y"], name="two"),
    ]
    source = artifact(model(nodes, {"image": ["n", 8]}, {"y": ["n", 8]}, stored), bench.root / "m")
    data = images()
    data.feeds["image"] = data.feeds["image"][:, 0, 0]
    found = bench.static(source, data=data)
    names = [t.name for t in graph(found).initializer if t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.INT32)]
    assert sum(n == "w_quantized" for n in names) == 1
    assert {"b_quantized", "b_two_quantized"} <= set(names)
    assert error(outputs(source, data.feeds), outputs(found, data.feeds)) < 0.05


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (1.0, 3.0), (2.0, 0.25)])
def test_gemm_factors_end_up_in_the_constants(bench: Bench, alpha: float, beta: float) -> None:
    built = convnet()
    head = next(node for node in built.graph.node if node.name == "head")
    head.attribute.extend([helper.make_attribute("alpha", alpha), helper.make_attribute("beta", beta)])
    source = artifact(built, bench.root / "m")
    feeds = images(8, seed=4).feeds
    assert error(outputs(source, feeds), outputs(bench.static(source), feeds)) < 0.1


def test_a_dead_channel_keeps_its_bias(bench: Bench) -> None:
    built = convnet()
    stored = {t.name: onnx.numpy_helper.to_array(t).copy() for t in built.graph.initializer}
    stored["conv1.weight"][3] = 0
    stored["conv1.bias"][3] = 0.75
    stored["conv1.weight"][4] *= 1e-9  # tiny weights and a bias that int32 cannot hold at their scale
    stored["conv1.bias"][4] = 2.0
    del built.graph.initializer[:]
    built.graph.initializer.extend(weights(**stored))
    source = artifact(built, bench.root / "m")
    found = bench.static(source)
    feeds = images(8, seed=4).feeds
    assert error(outputs(source, feeds), outputs(found, feeds)) < 0.1
    restored = tensor(found, "conv1.bias_quantized") * tensor(found, "conv1.bias_quantized_scale").astype(np.float64)
    assert np.allclose(restored, stored["conv1.bias"], atol=1e-3)


def test_reduced_weights_use_7_bits(bench: Bench) -> None:
    found = bench.static(artifact(convnet(), bench.root / "m"), reduce_range=True)
    assert np.abs(tensor(found, "conv1.weight_quantized")).max() == 63


def test_what_is_kept_stays_in_float_unless_the_runtime_may_finish_the_quantization(bench: Bench) -> None:
    found = bench.static(artifact(convnet(), bench.root / "m"), keep=["conv2"])
    for finish, said in ((False, "int8 (2 of 3"), (True, "int8 (3 of 3")):
        with ort_target.open(found, ort_target.Options(threads=1, finish_quantization=finish)) as session:
            assert session.precision.startswith(said)


FINITE = st.floats(-1e4, 1e4, width=32)


@given(arrays.arrays(np.float32, (4, 6), elements=FINITE), st.sampled_from([None, 0, 1]), st.booleans())
def test_a_weight_is_restored_to_half_a_step(weight: np.ndarray, axis: int | None, reduced: bool) -> None:
    found = grid.of_weight(weight, axis, reduced)
    shape = [-1 if axis == i else 1 for i in range(2)] if axis is not None else []
    restored = found.store(weight, axis).astype(np.float32) * found.scale.reshape(shape)
    assert not found.zero.any()
    assert (np.abs(restored - weight) <= found.scale.reshape(shape) * 0.5001).all()


@given(FINITE, FINITE, st.sampled_from(["uint8", "int8"]), st.booleans())
def test_zero_is_on_every_activation_grid_and_the_range_is_covered(
    one: float, other: float, kind: str, symmetric: bool
) -> None:
    low, high = sorted((one, other))
    found = grid.of_range(low, high, kind, symmetric)
    ends = np.array([low, 0.0, high])
    restored = (found.store(ends).astype(np.float64) - float(found.zero)) * float(found.scale)
    assert restored[1] == 0
    assert (np.abs(restored - ends) <= float(found.scale) * 1.01).all()
    if symmetric and kind == "int8":
        assert found.zero == 0
