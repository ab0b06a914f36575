"""half behind quantize.static: 8-bit pairs whose scales are 16-bit floats, with all integers as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from quant_lab import OPENVINO, ORT, TENSORRT, Bench, artifact, convnet, error, images, op_types, outputs

from optimizer import plan, recipe
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.passes import half, quantize_static
from optimizer.values import Artifact

PAIR = ("QuantizeLinear", "DequantizeLinear")
FORMS = [("int8", "fp16"), ("int8", "bf16"), ("fp8", "fp16"), ("fp8", "bf16")]
KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def stored(found: Artifact) -> dict[str, np.ndarray]:
    """Layer -> the integers (or 8-bit floats) of its weight, as the graph computes them; float32 throughout."""
    model = onnx_format.load(found.path)
    tensors = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in model.graph.initializer}
    kinds = {t.name: numpy_helper.to_array(t).dtype for t in model.graph.initializer}
    result = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in tensors:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            weight, scale = tensors[node.input[0]], tensors[node.input[1]]
            shape = [-1 if place == axis else 1 for place in range(weight.ndim)] if scale.ndim else []
            steps = weight / scale.reshape(shape)
            kind = kinds[node.input[2]]
            whole = np.rint(steps) if kind.kind in "iu" else steps.astype(kind).astype(np.float32)
            result[node.output[0]] = whole
    return result


@pytest.mark.parametrize(("eight", "sixteen"), FORMS)
def test_pairs_stay_and_type_what_is_between_them(bench: Bench, eight: str, sixteen: str) -> None:
    data = images(64)
    source = artifact(convnet(norm=True), bench.root / "m")
    quantized = bench.static(source, TENSORRT, data, dtype=eight)
    found = bench.run(half, quantized, TENSORRT, data, dtype=sixteen)
    built = onnx_format.load(found.path)
    onnx.checker.check_model(built, full_check=True)  # types
    assert onnx_format.read(found.path) == source.signature
    ops = op_types(found)
    assert [ops.count(op) for op in PAIR] == [op_types(quantized).count(op) for op in PAIR]
    assert ops.count("Cast") == 2, "behind the input and before the output"
    kinds = {t.name: t.data_type for t in built.graph.initializer}
    scales = {node.input[1] for node in built.graph.node if node.op_type in PAIR}
    assert {kinds[name] for name in scales} == {KINDS[sixteen]}
    assert TensorProto.FLOAT not in kinds.values()
    assert bench.notes["guard"]["float32"] == {}
    feeds = images(8, seed=9).feeds
    assert error(outputs(quantized, feeds), outputs(found, feeds)) < (0.02 if sixteen == "fp16" else 0.1)


@pytest.mark.parametrize(("eight", "sixteen"), FORMS)
def test_no_weight_moves_to_another_integer(bench: Bench, eight: str, sixteen: str) -> None:
    data = images(64)
    quantized = bench.static(artifact(convnet(), bench.root / "m"), TENSORRT, data, dtype=eight)
    found = bench.run(half, quantized, TENSORRT, data, dtype=sixteen)
    before, after = stored(quantized), stored(found)
    assert before.keys() == after.keys() and len(before) == 3
    assert all((before[name] == after[name]).all() for name in before)


def test_a_channel_that_does_not_count_keeps_no_pair_in_float32(bench: Bench) -> None:
    # Batch normalization folded into weights leaves such channels; their scales are below all of float16's numbers.
    built = convnet()
    for tensor in built.graph.initializer:
        if tensor.name == "conv2.weight":
            values = numpy_helper.to_array(tensor).copy()
            values[3] *= np.float32(1e-6)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    data = images(64)
    quantized = bench.static(artifact(built, bench.root / "m"), TENSORRT, data)
    found = bench.run(half, quantized, TENSORRT, data)
    assert bench.notes["guard"]["float32"] == {}
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx_format.load(found.path).graph.initializer}
    assert all((array > 0).all() for name, array in tensors.items() if "_scale" in name), "TensorRT takes no zero"
    feeds = images(8, seed=9).feeds
    assert error(outputs(quantized, feeds), outputs(found, feeds)) < 0.02


def test_a_scale_that_float16_has_few_bits_for_stays_with_its_pair(bench: Bench) -> None:
    built = convnet()
    for tensor in built.graph.initializer:
        if tensor.name == "conv2.weight":
            values = numpy_helper.to_array(tensor) * np.float32(1e-5)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    data = images(64)
    quantized = bench.static(artifact(built, bench.root / "m"), TENSORRT, data)
    found = bench.run(half, quantized, TENSORRT, data)
    reasons = bench.notes["guard"]["float32"]
    assert {"conv2.weight_QuantizeLinear", "conv2.weight_DequantizeLinear"} <= {*reasons}
    assert "so small that float16 keeps too few bits" in reasons["conv2.weight_QuantizeLinear"]
    assert {"node_conv2", "r1_QuantizeLinear", "r1_DequantizeLinear"} <= {*reasons}, "no casts between them"
    feeds = images(8, seed=9).feeds
    assert error(outputs(quantized, feeds), outputs(found, feeds)) < 0.02


@pytest.mark.parametrize("guard", [True, False])
def test_a_product_that_stays_in_float32_keeps_its_pairs_beside_it(bench: Bench, guard: bool) -> None:
    data = images(64)
    quantized = bench.static(artifact(convnet(), bench.root / "m"), TENSORRT, data)
    found = bench.run(half, quantized, TENSORRT, data, keep=["op:Gemm"], guard=guard)
    built = onnx_format.load(found.path)
    makers = {name: node for node in built.graph.node for name in node.output}
    kinds = {t.name: t.data_type for t in built.graph.initializer}
    (gemm,) = [node for node in built.graph.node if node.op_type == "Gemm"]
    for name in gemm.input[:2]:
        second = makers[name]
        assert second.op_type == "DequantizeLinear", "a cast between them would keep 8 bits from the product"
        assert kinds[second.input[1]] == kinds[makers[second.input[0]].input[1]] == TensorProto.FLOAT
    if guard:
        assert len(bench.notes["guard"]["float32"]) == 4
    feeds = images(8, seed=9).feeds
    assert error(outputs(quantized, feeds), outputs(found, feeds)) < 0.02


def test_onnx_runtime_computes_pairs_of_floats_behind_a_relu(bench: Bench) -> None:
    # It takes a ReLU before a pair away where zero is the lowest integer, and takes float8 for integers (1.32).
    found = bench.static(artifact(convnet(), bench.root / "m"), TENSORRT, images(64), dtype="fp8")
    feeds = images(8, seed=9).feeds
    names = [spec.name for spec in found.signature.outputs]
    exact = dict(zip(names, ReferenceEvaluator(onnx_format.load(found.path)).run(names, dict(feeds)), strict=True))
    assert error(exact, outputs(found, feeds)) < 1e-5
    assert onnx_format.holds_float8(found.path / onnx_format.FILE)
    assert not onnx_format.holds_float8(found.path / "missing.onnx")


def test_who_mixes_and_in_which_order() -> None:
    assert half.refuse_after(["load", "export", "quantize.static"], TENSORRT) is None
    assert half.refuse_after(["load", "export", "simplify"], ORT) is None
    assert "onnxruntime has no kernels" in str(half.refuse_after(["quantize.static"], ORT))
    assert half.refuse_after(["quantize.static"], OPENVINO) is None
    assert "put half behind it: [quantize.static, half]" in str(quantize_static.refuse_after(["half"], TENSORRT))
    assert quantize_static.refuse_after(["simplify"], TENSORRT) is None


def written(folder: Path, variants: str, targets: str = "[tensorrt-rtx]") -> recipe.Recipe:
    gone = "fp16: null, int8: null, int8-fp16: null"
    text = f"extends: vision/digits-tensorrt\nvariants: {{{gone}, {variants}}}\ntargets: {targets}\ngates: []\n"
    (folder / "r.yaml").write_text(text)
    return recipe.load(str(folder / "r.yaml"))


@pytest.mark.parametrize(
    ("variants", "targets", "said"),
    [
        ("mixed: [half, quantize.static]", "[onnxruntime]", "leave one of the two out"),
        (
            "mixed: [quantize.static, half]",
            "[onnxruntime]",
            "onnxruntime has no kernels for quantize.static's Q/DQ pairs",
        ),
        ("twice: [quantize.static, quantize.dynamic]", "[onnxruntime]", "'quantize.static' has quantized the model"),
        ("twice: [quantize.static, quantize.weights]", "[openvino]", "'quantize.static' has quantized the model"),
        ("twice: [quantize.static, quantize.static]", "[onnxruntime]", "'quantize.static' has quantized the model"),
    ],
)
def test_the_plan_refuses_what_cannot_be(tmp_path: Path, variants: str, targets: str, said: str) -> None:
    with pytest.raises(OptimizerError, match="fits none of the recipe's targets") as caught:
        plan.plan(written(tmp_path, variants, targets))
    assert said in caught.value.message


def test_of_two_targets_the_one_that_can_takes_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    planned: Any = plan.plan(written(tmp_path, "mixed: [quantize.static, half]", "[onnxruntime, tensorrt-rtx]"))
    skipped = {f"{c.variant}@{c.target}": c.skipped for c in planned.candidates}
    assert skipped["mixed@tensorrt-rtx"] is None and "no kernels for quantize.static" in str(
        skipped["mixed@onnxruntime"]
    )
