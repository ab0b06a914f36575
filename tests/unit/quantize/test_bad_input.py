"""Weights, data and models that cannot be quantized well: each pass says so, and leaves nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from quant_lab import (
    OPENVINO,
    ORT,
    Bench,
    Data,
    artifact,
    block,
    convnet,
    error,
    images,
    lowered,
    model,
    outputs,
    vectors,
    words,
)

from optimizer.errors import OptimizerError
from optimizer.passes import half, quantize_dynamic, quantize_static, quantize_weights
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

BOTH = [pytest.param(ORT, id="onnxruntime"), pytest.param(OPENVINO, id="openvino")]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def edited(built: onnx.ModelProto, name: str, place: Any, value: float) -> onnx.ModelProto:
    """The model with part of a weight replaced."""
    tensor = next(t for t in built.graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[place] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return built


def given(built: onnx.ModelProto, scheme: QuantScheme, bench: Bench) -> Artifact:
    source = artifact(built, bench.root / "m")
    return lowered(source, bench.root / "ir") if scheme is OPENVINO else source


def written(bench: Bench) -> list[str]:
    return [file.name for folder in bench.root.glob("out*") for file in folder.iterdir()]


@pytest.mark.parametrize("scheme", BOTH)
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_static_names_the_layer_whose_weights_are_not_finite(bench: Bench, scheme: QuantScheme, value: float) -> None:
    source = given(edited(convnet(), "conv1.weight", (0, 0, 0, 0), value), scheme, bench)
    with pytest.raises(OptimizerError, match=r"1 of 216 values of 'conv1.weight', a weight of Conv\w* '") as caught:
        bench.static(source, scheme)
    assert "keep: [node_conv1" in caught.value.hint and written(bench) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_dynamic_names_it_too_and_takes_the_rest_when_it_is_kept(bench: Bench, value: float) -> None:
    source = given(edited(block(64), "up.weight", (0, 0), value), ORT, bench)
    with pytest.raises(OptimizerError, match=r"1 of 6144 values of 'up.weight', a weight of MatMul 'up', are NaN"):
        bench.run(quantize_dynamic, source, ORT)
    assert written(bench) == []
    bench.run(quantize_dynamic, source, ORT, keep=["up"])
    assert bench.notes["quantized"] == {"MatMulInteger": 1, "Gather": 1}


@pytest.mark.parametrize("scheme", BOTH)
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_half_leaves_such_weights_in_float32(bench: Bench, scheme: QuantScheme, value: float) -> None:
    source = given(edited(convnet(), "linear.weight", (0, 0), value), scheme, bench)
    bench.run(half, source, scheme, images())
    (reason,) = [why for why in bench.notes["guard"]["float32"].values() if "NaN or infinite" in why]
    assert "1 of 32 values are NaN or infinite" in reason


@pytest.mark.parametrize("scheme", BOTH)
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_weight_only_leaves_them_in_float(bench: Bench, scheme: QuantScheme, value: float) -> None:
    source = given(edited(block(64), "up.weight", (0, 0), value), scheme, bench)
    bench.run(quantize_weights, source, scheme)
    assert bench.warnings[0] == "left in float because their weights are not finite: up"
    assert "up" not in [row["name"] for row in bench.notes["weights"]["layers"]]


@pytest.mark.parametrize("scheme", BOTH)
def test_weights_of_zero_and_dead_channels_are_no_obstacle(bench: Bench, scheme: QuantScheme) -> None:
    built = edited(edited(block(64), "up.weight", (slice(None), 2), 0), "gate.weight", slice(None), 0)
    source = given(built, scheme, bench)
    feeds = words(8).feeds
    exact = outputs(source, feeds)
    runs: list[tuple[Any, dict[str, Any]]] = [
        (half, {}),
        (quantize_weights, {"algorithm": "gptq"}),
        (quantize_static, {}),
    ]
    for plugin, options in [*runs, *([(quantize_dynamic, {})] if scheme is ORT else [])]:
        found = bench.run(plugin, source, scheme, words(), **options)
        assert error(exact, outputs(found, feeds)) < 0.1, plugin.__name__


@pytest.mark.parametrize("scheme", BOTH)
def test_nan_in_the_calibration_data_is_an_error(bench: Bench, scheme: QuantScheme) -> None:
    data = images()
    data.feeds["image"][3, 0, 0, 0] = np.nan
    source = given(convnet(), scheme, bench)
    for plugin in (quantize_static, half):
        with pytest.raises(OptimizerError, match="the calibration data 'tiny' holds NaN in the input 'image'"):
            bench.run(plugin, source, scheme, data)
    assert written(bench) == []


def test_infinity_in_the_calibration_data(bench: Bench) -> None:
    data = images()
    data.feeds["image"][3, 0, 0, 0] = np.inf
    source = given(convnet(), OPENVINO, bench)
    with pytest.raises(OptimizerError, match="the calibration data 'tiny' holds infinity in the input 'image'"):
        bench.static(source, OPENVINO, data)
    assert written(bench) == []
    bench.static(artifact(convnet(), bench.root / "onnx"), ORT, data)
    assert bench.warnings[0].startswith("left in float because their values are not finite")


@pytest.mark.parametrize("scheme", BOTH)
def test_hardly_any_data_and_data_that_never_changes_are_warned_of(bench: Bench, scheme: QuantScheme) -> None:
    source = given(convnet(), scheme, bench)
    few = Data({"image": np.full((3, 3, 8, 8), 0.5, "float32")})
    for plugin in (quantize_static, half):
        bench.warnings.clear()
        bench.run(plugin, source, scheme, few)
        assert bench.warnings[0].startswith("only 3 calibration samples")
        assert bench.warnings[1].startswith("the input 'image' is 0.5 throughout the first 3 calibration samples")


def test_data_beyond_all_range_leaves_nothing_to_quantize(bench: Bench) -> None:
    data = images()
    data.feeds["image"][:] = 1e38
    source = given(convnet(), ORT, bench)
    with pytest.raises(OptimizerError, match="nothing is left to quantize"):
        bench.static(source, data=data)
    assert any("not finite or beyond 1e30" in text for text in bench.warnings)
    with pytest.raises(OptimizerError, match=r"no weight can be float16: .* such as node_conv1: '"):
        bench.run(half, source, ORT, data)
    assert written(bench) == []


@pytest.mark.parametrize("scheme", BOTH)
def test_a_model_without_anything_to_quantize(bench: Bench, scheme: QuantScheme) -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["s"], name="softmax"),
        helper.make_node("Erf", ["s"], ["y"], name="erf"),
    ]
    source = given(model(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 16]}, []), scheme, bench)
    said = {quantize_static: "nothing is left to quantize", quantize_weights: "no weights are left to quantize"}
    for plugin, text in (said | {half: "the model has no float32 weights"}).items():
        with pytest.raises(OptimizerError, match=text):
            bench.run(plugin, source, scheme, vectors())
    assert written(bench) == []
