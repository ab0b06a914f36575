"""quantize.dynamic and half: what they change, what they leave, whom they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from quant_lab import (
    FLOAT,
    INT64,
    OPENVINO,
    ORT,
    Bench,
    artifact,
    attention,
    convnet,
    error,
    images,
    lowered,
    model,
    op_types,
    outputs,
    precision,
    tokens,
    weights,
)

from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.passes import half, quantize_dynamic

IMAGES = images(4, seed=9).feeds


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_dynamic_takes_products_with_weights_and_tables(bench: Bench) -> None:
    source = artifact(attention(), bench.root / "m")
    found = bench.run(quantize_dynamic, source, ORT)
    assert bench.notes["quantized"] == {"MatMulInteger": 3, "Gather": 1}
    assert precision(found) == "int8 (3 of 5 convolutions and matrix products), float32 elsewhere"
    feeds = tokens(8).feeds
    assert 0 < error(outputs(source, feeds), outputs(found, feeds)) < 0.05
    assert onnx_format.read(found.path) == source.signature
    scales = {t.name: list(t.dims) for t in onnx_format.load(found.path).graph.initializer}
    assert scales["query.weight_scale"] == [8]


def test_dynamic_leaves_convolutions_alone_and_keeps_what_is_named(bench: Bench) -> None:
    source = artifact(convnet(), bench.root / "m")
    found = bench.run(quantize_dynamic, source, ORT)
    assert bench.notes["quantized"] == {"MatMulInteger": 1}
    assert error(outputs(source, IMAGES), outputs(found, IMAGES)) < 0.05
    with pytest.raises(OptimizerError, match="nothing is left to quantize"):
        bench.run(quantize_dynamic, source, ORT, keep=["linear"])
    with pytest.raises(OptimizerError, match="matches none"):
        bench.run(quantize_dynamic, source, ORT, keep=["lstm"])
    with pytest.raises(OptimizerError, match=r"unknown operator type 'Conv' .*available: Attention, Gather"):
        bench.run(quantize_dynamic, source, ORT, ops=["Conv"])


def test_dynamic_is_refused_where_no_kernel_is() -> None:
    assert "openvino has no kernels" in str(quantize_dynamic.refuse(quantize_dynamic.Options(), OPENVINO))
    assert quantize_dynamic.refuse(quantize_dynamic.Options(), ORT) is None


def test_half_stores_fp16_and_keeps_the_types_of_inputs_and_outputs(bench: Bench) -> None:
    source = artifact(convnet(), bench.root / "m")
    found = bench.run(half, source, ORT)
    assert onnx_format.read(found.path) == source.signature
    kinds = {t.data_type for t in onnx_format.load(found.path).graph.initializer}
    assert kinds == {TensorProto.FLOAT16}
    assert found.size < 0.75 * source.size
    assert 0 < error(outputs(source, IMAGES), outputs(found, IMAGES)) < 0.01


def test_half_keeps_a_node_in_float32(bench: Bench) -> None:
    found = bench.run(half, artifact(convnet(), bench.root / "m"), ORT, keep=["linear"])
    assert bench.notes["kept"] == ["head"]
    kinds = {t.name: t.data_type for t in onnx_format.load(found.path).graph.initializer}
    assert kinds["linear.weight"] == TensorProto.FLOAT and kinds["conv1.weight"] == TensorProto.FLOAT16


@pytest.mark.parametrize("last", [True, False])
def test_half_retypes_casts_inside_the_graph(bench: Bench, last: bool) -> None:
    # As in exported text models: a mask of integers, cast to float32, times an activation.
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("Cast", ["mask"], ["m"], name="cast", to=FLOAT),
    ]
    if not last:
        nodes.append(helper.make_node("Mul", ["y", "m"], ["out"], name="times"))
    outs = {"y": ["n", 4], "m": ["n", 4]} if last else {"out": ["n", 4]}
    built = model(
        nodes,
        {"x": ["n", 3], "mask": ["n", 4]},
        outs,
        weights(w=np.ones((3, 4), dtype="float32")),
        kinds={"mask": INT64},
    )
    source = artifact(built, bench.root / "m")
    found = bench.run(half, source, ORT)
    feeds = {"x": np.ones((2, 3), dtype="float32"), "mask": np.array([[1, 0, 1, 0]] * 2)}
    assert error(outputs(source, feeds), outputs(found, feeds)) == 0
    assert onnx_format.read(found.path) == source.signature


def test_half_serves_an_output_that_is_also_read_inside(bench: Bench) -> None:
    built = convnet()
    built.graph.output.append(helper.make_tensor_value_info("r1", FLOAT, ["batch", 8, 8, 8]))
    source = artifact(built, bench.root / "m")
    found = bench.run(half, source, ORT)
    assert onnx_format.read(found.path) == source.signature
    assert error(outputs(source, IMAGES), outputs(found, IMAGES)) < 0.01


def test_half_on_openvino_says_what_to_compute_in(bench: Bench) -> None:
    source = lowered(artifact(convnet(), bench.root / "m"), bench.root / "ir")
    stored = bench.run(half, source, OPENVINO)
    assert openvino_format.precision(stored.path) == "f16"
    assert (stored.path / "model.bin").stat().st_size < 0.6 * (source.path / "model.bin").stat().st_size
    brain = bench.run(half, source, OPENVINO, dtype="bf16")
    assert openvino_format.precision(brain.path) == "bf16"
    assert error(outputs(source, IMAGES), outputs(brain, IMAGES)) < 0.05
    assert openvino_format.read(brain.path) == openvino_format.read(source.path)


def test_half_refuses_a_type_that_the_target_does_not_run() -> None:
    assert "available: fp16" in str(half.refuse(half.Options(dtype="bf16"), ORT))
    assert half.refuse(half.Options(dtype="bf16"), OPENVINO) is None
    assert "keep" in str(half.refuse(half.Options(keep=["x"]), OPENVINO))


def test_half_twice_is_an_error(bench: Bench) -> None:
    found = bench.run(half, artifact(convnet(), bench.root / "m"), ORT)
    with pytest.raises(OptimizerError, match="no float32 weights"):
        bench.run(half, found, ORT)


def test_nothing_is_left_of_the_marks_for_the_quantizers(bench: Bench) -> None:
    source = artifact(attention(), bench.root / "m")
    for plugin in (quantize_dynamic, half):
        found = bench.run(plugin, source, ORT)
        assert "onnx.infer" not in [entry.key for entry in onnx.load(found.path / "model.onnx").metadata_props]
    assert "Cast" in op_types(found)
