"""quantize.weights for OpenVINO: NNCF compresses what is asked for, and the runtime computes with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from quant_lab import (
    OPENVINO,
    Bench,
    artifact,
    block,
    convnet,
    error,
    lowered,
    model,
    opened,
    outputs,
    precision,
    prenorm,
    vectors,
    weights,
    words,
)

from optimizer.errors import OptimizerError
from optimizer.formats import openvino as openvino_format
from optimizer.passes import quantize_weights
from optimizer.values import Artifact

pytest.importorskip("nncf")
FEEDS = words(16).feeds
UNPACKING = ("Convert", "Reshape", "Multiply")  # what the constants end in
ROUNDED = 0.02  # OpenVINO may quantize activations to 8 bits, a scale for each 32 of them; scales are float16


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def source(bench: Bench, width: int = 64) -> Artifact:
    return lowered(artifact(block(width), bench.root / "m"), bench.root / "ir")


def in_float(found: Artifact, folder: Path) -> Artifact:
    """The model with its weights unpacked into float constants: what its target is to agree with."""
    ov = openvino_format.library()
    model = openvino_format.load(found.path)
    for op in model.get_ordered_ops():
        if op.get_type_name() not in ("MatMul", "Gather"):
            continue
        for port in op.inputs():
            maker = port.get_source_output()
            if maker.get_node().get_type_name() in UNPACKING and not maker.get_partial_shape().is_dynamic:
                unpacked = openvino_format.compiled(ov.Model([maker], [], "weights"), {})({})
                values = next(iter(unpacked.values())).astype("float32")
                port.replace_source_output(ov.opset13.constant(values).output(0))
    folder.mkdir()
    openvino_format.save(model, folder)
    return opened("openvino", folder, found.signature)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True, "group": 16},
        {"group": "channel"},
        {"algorithm": "gptq"},
        {"algorithm": "awq"},
        {"bits": 8},
        {"bits": 8, "symmetric": True},
    ],
)
def test_the_target_computes_with_the_unpacked_weights(bench: Bench, options: dict[str, Any]) -> None:
    given = source(bench)
    found = bench.run(quantize_weights, given, OPENVINO, words(), embeddings=True, **options)
    expected = outputs(in_float(found, bench.root / "float"), FEEDS)
    assert error(expected, outputs(found, FEEDS)) < ROUNDED
    assert 0 < error(outputs(given, FEEDS), expected) < (0.02 if options.get("bits") == 8 else 0.4)
    read = openvino_format.read(found.path)
    assert [spec.name for spec in (*read.inputs, *read.outputs)] == ["tokens", "logits"]


@pytest.mark.parametrize(("bits", "kind"), [(4, "int4"), (8, "int8")])
def test_products_and_tables_are_recorded_with_their_bytes(bench: Bench, bits: int, kind: str) -> None:
    found = bench.run(quantize_weights, source(bench), OPENVINO, bits=bits, keep=["logits"], embeddings=True)
    assert bench.notes["quantized"] == {"MatMul": 3, "Gather": 1}
    assert bench.notes["kept"] == ["logits"]
    note = bench.notes["weights"]
    assert note["group"] == (32 if bits == 4 else "channel")
    rows = {row["name"]: row for row in note["layers"]}
    assert rows["up"]["shape"] == (96, 64)
    groups = 2 if bits == 4 else 1
    least = 96 * (64 * bits // 8 + groups * (2 + bits // 8))  # codes, float16 scales and zero points
    assert least <= rows["up"]["after"] <= least + 96 * groups
    assert note["bytes"]["ratio"] == pytest.approx(note["bytes"]["after"] / note["bytes"]["before"], abs=1e-4)
    # The runtime unpacks the weights behind Gemm's alpha when it compiles, and the words say what is left.
    assert precision(found) == f"{kind} weights (2 of 4 convolutions and matrix products), float32 elsewhere"
    assert math.isclose(note["bytes"]["before"], sum(row["before"] for row in note["layers"]))


def test_tables_stay_in_float_unless_they_are_asked_for(bench: Bench) -> None:
    bench.run(quantize_weights, source(bench), OPENVINO)
    assert bench.notes["quantized"] == {"MatMul": 4}  # the head's weight is the table, which is copied for it


def test_groups_that_do_not_divide_a_row_are_refused_with_the_layers(bench: Bench) -> None:
    given = source(bench, width=72)
    with pytest.raises(OptimizerError, match=r"groups of 32 do not divide the rows of .*up.* \(72\)") as caught:
        bench.run(quantize_weights, given, OPENVINO, group=32)
    assert "group: channel" in caught.value.hint
    bench.run(quantize_weights, given, OPENVINO, group="channel")


def test_without_a_group_layers_that_none_divides_stay_in_float_with_a_warning(bench: Bench) -> None:
    bench.run(quantize_weights, source(bench, width=72), OPENVINO)
    assert bench.notes["quantized"] == {"MatMul": 1}
    assert bench.notes["weights"]["group"] == 32
    (told,) = [w for w in bench.warnings if "left in float" in w]
    assert "groups of 32 do not divide their rows: " in told and "(72)" in told


@pytest.mark.parametrize(("width", "group"), [(48, 16), (20, "channel")])
def test_without_a_group_one_is_taken_that_fits(bench: Bench, width: int, group: int | str) -> None:
    weight = np.random.default_rng(0).normal(size=(width, 64)).astype(np.float32)
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = model([product], {"x": ["batch", width]}, {"y": ["batch", 64]}, weights(w=weight))
    given = lowered(artifact(made, bench.root / "m"), bench.root / "ir")
    bench.run(quantize_weights, given, OPENVINO)
    assert bench.notes["weights"]["group"] == group
    assert bench.warnings == []


def test_a_model_without_products_says_what_is_missing(bench: Bench) -> None:
    given = lowered(artifact(convnet(), bench.root / "c"), bench.root / "ir")
    with pytest.raises(OptimizerError, match="the model has no MatMul with a constant float weight"):
        bench.run(quantize_weights, given, OPENVINO, keep=["op:Gemm"], group=16)


def test_awq_says_where_it_did_something_and_where_not(bench: Bench) -> None:
    bench.run(quantize_weights, source(bench), OPENVINO, words(), algorithm="awq")
    assert bench.notes["awq"]["changed"] == 0
    assert bench.warnings[0].startswith("awq changed nothing, the result is that of rtn")
    bench.warnings.clear()
    gated = lowered(artifact(prenorm(), bench.root / "p"), bench.root / "pir")
    bench.run(quantize_weights, gated, OPENVINO, vectors(), algorithm="awq", group=16)
    assert 0 < bench.notes["awq"]["changed"] < bench.notes["awq"]["constants"] and bench.warnings == []
