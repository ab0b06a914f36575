"""quantize.weights for ONNX Runtime: what is written, that it computes what it says, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from pydantic import ValidationError
from quant_lab import (
    OPENVINO,
    ORT,
    WIDTH,
    Bench,
    artifact,
    attention,
    block,
    convnet,
    error,
    model,
    op_types,
    outputs,
    precision,
    tokens,
    weights,
    words,
)

from optimizer.errors import OptimizerError
from optimizer.formats import moments
from optimizer.formats import onnx as onnx_format
from optimizer.passes import quantize_static, quantize_weights
from optimizer.passes.quantize_weights import packing
from optimizer.passes.quantize_weights.options import Algorithm
from optimizer.targets import pytorch
from optimizer.values import Artifact

ALGORITHMS = get_args(Algorithm)
EXACT = 1e-5  # float32 sums in another order
ROUNDED = 0.02  # activations in 8 bits, a scale for each block


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


FEEDS = words(16).feeds


def in_float(found: Artifact, folder: Path) -> Artifact:
    """The model with its integer weights dequantized, in plain ONNX: what its target is to agree with."""
    built = onnx_format.load(found.path)
    graph = built.graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.domain != "com.microsoft":
            continue
        settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        bits, group = settings["bits"], settings["block_size"]
        product = node.op_type == "MatMulNBits"
        codes, scales = tensors[node.input[1 if product else 0]], tensors[node.input[2]]
        rows, groups = scales.shape
        count = settings["K"] if product else codes.shape[1] * 8 // bits
        codes = packing.unpacked(codes.reshape(rows, -1), bits, groups * group if product else count)
        zeros = packing.unpacked(tensors[node.input[3]], bits, groups) if len(node.input) > 3 else np.zeros_like(scales)
        spread = [np.repeat(part, group, axis=1)[:, :count] for part in (scales, zeros)]
        restored = ((codes[:, :count].astype(np.float32) - spread[1]) * spread[0]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(restored.T if product else restored, f"{node.name}_float"))
        inputs = [node.input[0], f"{node.name}_float"] if product else [f"{node.name}_float", node.input[1]]
        node.CopyFrom(helper.make_node("MatMul" if product else "Gather", inputs, node.output, name=node.name))
    return artifact(built, folder)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 16, True), (4, 32, False), (8, 64, False), (8, 16, True)])
def test_the_target_computes_with_the_dequantized_weights(
    bench: Bench, algorithm: str, bits: int, group: int, symmetric: bool
) -> None:
    source = artifact(block(), bench.root / "m")
    options = {"bits": bits, "group": group, "symmetric": symmetric, "algorithm": algorithm, "embeddings": True}
    found = bench.run(quantize_weights, source, ORT, words(), accuracy_level=1, **options)
    expected = outputs(in_float(found, bench.root / "float"), FEEDS)
    assert error(expected, outputs(found, FEEDS)) < EXACT
    assert 0 < error(outputs(source, FEEDS), expected) < (0.25 if bits == 4 else 0.02)
    assert onnx_format.read(found.path) == source.signature
    rounded = bench.run(quantize_weights, source, ORT, words(), **options)
    assert error(expected, outputs(rounded, FEEDS)) < ROUNDED


def test_every_product_and_table_is_written_and_recorded(bench: Bench) -> None:
    source = artifact(block(), bench.root / "m")
    found = bench.run(quantize_weights, source, ORT, embeddings=True)
    assert bench.notes["quantized"] == {"Gather": 1, "MatMul": 3, "Gemm": 1}
    kinds = op_types(found)
    assert (kinds.count("MatMulNBits"), kinds.count("GatherBlockQuantized")) == (4, 1)
    assert not {"Gemm", "MatMul", "Gather", "Transpose"} & set(kinds)
    assert precision(found) == "int4 weights (4 of 4 convolutions and matrix products), float32 elsewhere"
    note = bench.notes["weights"]
    assert (note["algorithm"], note["bits"], note["group"], note["symmetric"]) == ("rtn", 4, 32, False)
    # 96 rows of 3 groups, the last one filled up: 16 bytes of codes and a scale each, and 2 bytes of zero points.
    after = 96 * (3 * (16 + 4) + 2)
    up = {"name": "up", "op": "MatMul", "shape": (96, WIDTH), "before": 96 * WIDTH * 4, "after": after}
    assert up in note["layers"]
    stored = {t.name: t for t in onnx_format.load(found.path).graph.initializer}
    assert "table.weight" not in stored
    assert note["bytes"]["after"] == sum(row["after"] for row in note["layers"])


def test_same_ingredients_give_the_same_bytes(bench: Bench) -> None:
    source = artifact(block(), bench.root / "m")
    for algorithm in ALGORITHMS:
        found = [bench.run(quantize_weights, source, ORT, words(), algorithm=algorithm) for _ in range(2)]
        assert len({(one.path / onnx_format.FILE).read_bytes() for one in found}) == 1


def test_weights_that_layers_share_are_stored_once(bench: Bench) -> None:
    random = np.random.default_rng(0)
    tensors = weights(shared=random.standard_normal((64, 64)).astype("float32"))
    nodes = [
        helper.make_node("MatMul", ["x", "shared"], ["y"], name="one"),
        helper.make_node("MatMul", ["y", "shared"], ["z"], name="two"),
    ]
    source = artifact(model(nodes, {"x": ["n", 64]}, {"z": ["n", 64]}, tensors), bench.root / "m")
    found = bench.run(quantize_weights, source, ORT)
    assert len(onnx_format.load(found.path).graph.initializer) == 3
    assert bench.notes["quantized"] == {"MatMul": 2}


def test_what_is_kept_stays_in_float(bench: Bench) -> None:
    source = artifact(block(), bench.root / "m")
    found = bench.run(quantize_weights, source, ORT, keep=["head", "op:Gemm"])
    assert bench.notes["quantized"] == {"MatMul": 2}
    assert bench.notes["kept"] == ["down", "head"]
    assert precision(found) == "int4 weights (2 of 4 convolutions and matrix products), float32 elsewhere"
    with pytest.raises(OptimizerError, match=r"keep: the selector 'haed' matches none of 12 nodes.*"):
        bench.run(quantize_weights, source, ORT, keep=["haed"])
    with pytest.raises(OptimizerError, match="all 4 layers that could be are kept in float"):
        bench.run(quantize_weights, source, ORT, keep=["op:MatMul", "op:Gemm"])


def test_awq_costs_nothing_after_a_normalization_and_a_product_elsewhere(bench: Bench) -> None:
    built = block()
    scale = next(t for t in built.graph.initializer if t.name == "scale")
    loud = numpy_helper.to_array(scale).copy()
    loud[[3, 50]] *= 40  # the channels that AWQ is about
    scale.CopyFrom(numpy_helper.from_array(loud, "scale"))
    source = artifact(built, bench.root / "m")
    found = bench.run(quantize_weights, source, ORT, words(), algorithm="awq", keep=["head", "down"])
    assert op_types(found).count("Mul") == op_types(source).count("Mul")
    assert "norm_divided_1" in {t.name for t in onnx_format.load(found.path).graph.initializer}
    half = bench.run(quantize_weights, source, ORT, words(), algorithm="awq", keep=["head", "down", "gate"])
    assert op_types(half).count("Mul") == op_types(source).count("Mul") + 1
    plain = bench.run(quantize_weights, source, ORT, keep=["head", "down"])
    reference = outputs(source, FEEDS)
    assert error(reference, outputs(found, FEEDS)) < error(reference, outputs(plain, FEEDS))


def test_too_few_calibration_rows_are_told(bench: Bench) -> None:
    bench.run(quantize_weights, artifact(block(), bench.root / "m"), ORT, words(4), algorithm="gptq")
    assert "fewer calibration rows than columns" in bench.warnings[0]
    assert bench.steps == [(4, 7), (5, 7), (6, 7), (7, 7)], "four samples, then the inputs of layers one by one"


def test_moments_are_read_in_rounds_where_memory_is_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    source = artifact(block(), bench.root / "m")
    whole = bench.run(quantize_weights, source, ORT, words(), algorithm="gptq")
    monkeypatch.setattr(moments, "ROOM", 1)
    parts = bench.run(quantize_weights, source, ORT, words(), algorithm="gptq")
    assert bench.steps[-1] == (3 * 64 + 3, 3 * 64 + 3)
    assert (64, 3 * 64 + 3) in bench.steps and (64 + 1, 3 * 64 + 3) in bench.steps, "a layer after each reading"
    assert error(outputs(whole, FEEDS), outputs(parts, FEEDS)) < EXACT


def test_weights_that_are_not_finite_stay_in_float(bench: Bench) -> None:
    built = block()
    tensor = next(t for t in built.graph.initializer if t.name == "up.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[0, 0] = np.inf
    tensor.CopyFrom(numpy_helper.from_array(values, "up.weight"))
    bench.run(quantize_weights, artifact(built, bench.root / "m"), ORT)
    assert bench.warnings == ["left in float because their weights are not finite: up"]
    assert bench.notes["quantized"] == {"MatMul": 2, "Gemm": 1}


def test_a_model_without_products_says_what_it_has(bench: Bench) -> None:
    source = artifact(convnet(), bench.root / "m")
    bench.run(quantize_weights, source, ORT)
    assert "hold 3.8% of the model's weights; embeddings: true takes tables, too; conv" in bench.warnings[0]
    with pytest.raises(OptimizerError, match="all 1 layers that could be are kept"):
        bench.run(quantize_weights, source, ORT, keep=["linear"])
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    with pytest.raises(OptimizerError, match="no MatMul or Gemm with a constant float32 weight; it has Relu"):
        bench.run(quantize_weights, artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, []), bench.root / "r"), ORT)


def test_products_of_activations_are_left_alone(bench: Bench) -> None:
    source = artifact(attention(), bench.root / "m")
    found = bench.run(quantize_weights, source, ORT, accuracy_level=0)
    assert bench.notes["quantized"] == {"MatMul": 3}
    assert precision(found) == "int4 weights (3 of 5 convolutions and matrix products), float32 elsewhere"
    assert error(outputs(in_float(found, bench.root / "f"), tokens(8).feeds), outputs(found, tokens(8).feeds)) < EXACT


@pytest.mark.parametrize(
    ("options", "scheme", "reason"),
    [
        ({}, pytorch.SCHEME, "quantize.weights works on onnx and openvino, pytorch runs torch"),
        ({"group": "channel"}, ORT, "no kernel with one scale per channel; accepted: group 16, 32, 64, 128, 256"),
        ({"group": 512}, ORT, "no kernel for group 512; accepted: 16, 32, 64, 128, 256"),
        ({"algorithm": "hqq"}, OPENVINO, "has no hqq; accepted: rtn, gptq, awq"),
        ({"algorithm": "autoround"}, OPENVINO, "has no autoround; accepted: rtn, gptq, awq"),
        ({"accuracy_level": 4}, OPENVINO, "accuracy_level is an option for onnxruntime"),
        ({"bits": 8, "group": 32}, OPENVINO, "no groups for weights of 8 bits, group is 32; accepted: channel"),
        ({"bits": 8, "algorithm": "gptq"}, OPENVINO, "no gptq for weights of 8 bits; accepted: rtn, or bits: 4"),
    ],
)
def test_what_a_target_refuses_is_named_before_anything_runs(options: dict[str, Any], scheme: Any, reason: str) -> None:
    found = quantize_weights.refuse(quantize_weights.Options(**options), scheme)
    assert found
    assert reason in found


def test_groups_are_powers_of_two() -> None:
    for group in (8, 48, 0, -32):
        with pytest.raises(ValidationError, match="a power of two from 16"):
            quantize_weights.Options(group=group)


def test_data_is_needed_only_where_it_decides() -> None:
    roles = {a: quantize_weights.data(quantize_weights.Options(algorithm=a)) for a in ALGORITHMS}
    assert roles == {"rtn": (), "hqq": ()} | dict.fromkeys(("gptq", "awq", "autoround"), ("calibrate",))


def test_calibrated_algorithms_say_that_they_need_data(bench: Bench) -> None:
    source = artifact(block(), bench.root / "m")
    with pytest.raises(OptimizerError, match="with gptq needs calibration data") as caught:
        bench.run(quantize_weights, source, ORT, algorithm="gptq")
    assert "rtn or hqq" in caught.value.hint


def test_a_quantized_model_is_not_quantized_again(bench: Bench) -> None:
    source = artifact(block(), bench.root / "m")
    found = bench.run(quantize_weights, source, ORT, embeddings=True)
    with pytest.raises(OptimizerError, match="no weights are left to quantize"):
        bench.run(quantize_weights, found, ORT, embeddings=True)
    static = bench.run(quantize_static, source, ORT, words())
    with pytest.raises(OptimizerError, match="quantized already"):
        bench.run(quantize_weights, static, ORT)
    assert onnx.load(found.path / onnx_format.FILE, load_external_data=False).opset_import[-1].domain == "com.microsoft"
