"""Algorithms on the float model: the function stays where it must, ranges become equal, faults are named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from quant_lab import (
    ORT,
    Bench,
    artifact,
    attention,
    chain,
    convnet,
    error,
    images,
    model,
    outputs,
    prenorm,
    quantized_inputs,
    tokens,
    vectors,
    weights,
)

from optimizer.errors import OptimizerError
from optimizer.formats import onnx_ready
from optimizer.formats.calibration import Calibration
from optimizer.passes import quantize_static
from optimizer.passes.quantize_static import bias, equalize, layers, rounding, smooth
from optimizer.passes.quantize_static.absorb import absorber
from optimizer.passes.quantize_static.layers import Graph, grouped, inner_tops, outer_tops, ungrouped
from optimizer.passes.quantize_static.moments import second_moments

Transformation = Callable[[Any, Calibration], dict[str, Any]]


def everything(node: onnx.NodeProto) -> bool:
    return True


def silent(done: int, total: int) -> None:
    pass


def smoothed(built: Any, data: Calibration) -> dict[str, Any]:
    return smooth.smooth(built, everything, data, 0.5, False, silent)


def inserted(built: Any, data: Calibration) -> dict[str, Any]:
    return smooth.smooth(built, everything, data, 0.5, True, silent)


def equalized(built: Any, data: Calibration) -> dict[str, Any]:
    return equalize.equalize(built, everything)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def prepared(built: Any, folder: Path, data: Any) -> tuple[Any, Calibration]:
    source = artifact(built, folder)
    return onnx_ready.prepared(source), Calibration(data, source.signature, 300)


def values(built: Any, folder: Path, feeds: Any) -> dict[str, np.ndarray]:
    onnx_ready.unmark(built)
    return outputs(artifact(built, folder), feeds)


@pytest.mark.parametrize("transform", [smoothed, inserted, equalized])
@pytest.mark.parametrize(("make", "data"), [(chain, images), (prenorm, vectors), (convnet, images)])
def test_the_float_function_stays_and_a_second_time_changes_nothing(
    tmp_path: Path, transform: Transformation, make: Callable[[], Any], data: Callable[[], Any]
) -> None:
    built, calibration = prepared(make(), tmp_path / "m", data())
    feeds = data(16, seed=9).feeds
    before = values(built, tmp_path / "a", feeds)
    transform(built, calibration)
    once = {t.name: onnx.numpy_helper.to_array(t) for t in built.graph.initializer}
    assert error(before, values(built, tmp_path / "b", feeds)) < 1e-5
    transform(built, calibration)
    for tensor in built.graph.initializer:
        assert np.allclose(onnx.numpy_helper.to_array(tensor), once[tensor.name], rtol=5e-3, atol=1e-6), tensor.name


def test_an_outlier_channel_moves_from_the_activation_into_the_weights_that_share_it(tmp_path: Path) -> None:
    built, calibration = prepared(prenorm(), tmp_path / "m", vectors())
    groups = {group.tensor: group for group in smooth.gather(Graph(built), everything)}
    assert {layer.name for layer in groups["n1"].layers} == {"q", "k", "v"}
    before = smooth.activation_tops(built, [groups["n1"]], calibration, silent)["n1"]
    found = smoothed(built, calibration)
    assert found["smoothed"] == ["q, k, v", "gate, up", "down"] and found["left"] == []
    after = smooth.activation_tops(built, [groups["n1"]], calibration, silent)["n1"]
    assert before.max() / np.median(before) > 20 and after.max() / np.median(after) < 8
    shared = [inner_tops(layer, Graph(built).array(layer.weight)) for layer in groups["n1"].layers]
    assert np.max(shared, axis=0) == pytest.approx(after, rel=5e-3), "alpha 0.5: activation and weights end alike"


def test_smoothing_helps_where_one_channel_outshines_the_others(bench: Bench) -> None:
    source, feeds = artifact(prenorm(), bench.root / "m"), vectors(16, seed=9).feeds
    plain = bench.static(source, data=vectors())
    smoothed = bench.static(source, data=vectors(), smooth=True)
    expected = outputs(source, feeds)
    assert error(expected, outputs(smoothed, feeds)) < 0.7 * error(expected, outputs(plain, feeds))


def test_what_cannot_take_the_factor_is_left_and_named(tmp_path: Path) -> None:
    built, calibration = prepared(convnet(), tmp_path / "m", images())
    before = built.SerializeToString()
    assert smoothed(built, calibration) == {
        "smoothed": [],
        "left": [
            "node_conv1: 'image' is an input of the model",
            "node_conv2: 'r1' is also read by add",
            "head: Add 'add' cannot take a factor",
        ],
        "inserted": [],
    }
    assert built.SerializeToString() == before


def test_a_multiplication_takes_the_factors_behind_a_normalization_when_it_may(bench: Bench) -> None:
    built = prenorm()
    built.graph.output.append(helper.make_tensor_value_info("n1", onnx.TensorProto.FLOAT, ["n", 6, 16]))
    source, feeds = artifact(built, bench.root / "m"), vectors(16, seed=9).feeds
    plain = bench.static(source, data=vectors(), smooth=True)
    assert bench.notes["smooth"]["left"] == ["q, k, v: 'n1' is also read by whoever runs the model"]
    found = bench.static(source, data=vectors(), smooth=True, smooth_insert=True, model="cnn")
    assert bench.notes["smooth"]["inserted"] == ["n1_smoothed"] and bench.notes["smooth"]["left"] == []
    assert quantized_inputs(found, ["n1_smoothed", "q"]) == {"n1_smoothed": False, "q": True}, "it stays in float"
    again = bench.static(source, data=vectors(), smooth=True, smooth_insert=True)
    expected = outputs(source, feeds)
    assert error(expected, outputs(again, feeds)) < error(expected, outputs(plain, feeds))


def test_ranges_of_consecutive_layers_become_equal_depthwise_too(tmp_path: Path) -> None:
    built, _ = prepared(chain(), tmp_path / "m", images())
    found = equalize.equalize(built, everything)
    assert found["pairs"] == ["a -> b", "b -> c", "c -> d", "d -> e"] and 2 < found["rounds"] < layers.ROUNDS
    graph = Graph(built)
    for first, second in zip("abcd", "bcde", strict=True):
        above, below = graph.layers[first], graph.layers[second]
        assert outer_tops(above, graph.array(above.weight)) == pytest.approx(
            inner_tops(below, graph.array(below.weight)), rel=5e-3
        )


def test_equalization_repairs_one_scale_per_weight(bench: Bench) -> None:
    source, feeds = artifact(chain(), bench.root / "m"), images(16, seed=9).feeds
    expected = outputs(source, feeds)
    plain, equal = (bench.static(source, per_channel=False, equalize=on) for on in (False, True))
    assert error(expected, outputs(equal, feeds)) < 0.7 * error(expected, outputs(plain, feeds))


@pytest.mark.parametrize("options", [{"smooth": True}, {"equalize": True}, {"rounding": "adaround"}])
def test_dead_channels_get_no_factor_and_no_scale_of_zero(bench: Bench, options: dict[str, Any]) -> None:
    source, feeds = artifact(chain(dead=True), bench.root / "m"), images(16, seed=9).feeds
    # Few samples would leave channels with larger values than were seen, which smoothing makes the most of.
    found = bench.static(source, data=images(256), bias_correction=True, **options)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(found.path / "model.onnx").graph.initializer}
    scales = [array for name, array in tensors.items() if name.endswith("_scale")]
    assert scales and all(np.isfinite(array).all() and (array > 0).all() for array in scales)
    assert error(outputs(source, feeds), outputs(found, feeds)) < 0.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bench: Bench, bad: float) -> None:
    built = convnet()
    broken = next(t for t in built.graph.initializer if t.name == "conv2.weight")
    array = onnx.numpy_helper.to_array(broken).copy()
    array[3, 2, 1] = bad
    broken.CopyFrom(onnx.numpy_helper.from_array(array, broken.name))
    source = artifact(built, bench.root / "m")
    with pytest.raises(OptimizerError, match=r"3 of 576 values of 'conv2.weight', a weight of Conv 'node_conv2'") as r:
        bench.static(source)
    assert "keep: [node_conv2]" in str(r.value.hint)


def test_the_way_up_stops_at_other_readers_and_at_what_is_not_homogeneous(tmp_path: Path) -> None:
    built, _ = prepared(attention(), tmp_path / "m", tokens())
    graph = Graph(built)
    assert "also read by" in str(absorber(graph, "k", 2, 8).reason) or absorber(graph, "k", 2, 8).layer
    assert absorber(graph, "mixed", 2, 8).reason == "MatMul 'mix' cannot take a factor"
    assert absorber(graph, "tokens", 1, 5).reason == "'tokens' is an input of the model"


def shared() -> Any:
    """Two products with one weight: to scale it for one would change the other."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["r"], name="r"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="b"),
    ]
    tensors = weights(w=random.standard_normal((16, 16)).astype("float32"))
    return model(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 16]}, tensors)


def test_a_weight_that_two_layers_share_is_left_alone(bench: Bench) -> None:
    source, feeds = artifact(shared(), bench.root / "m"), vectors(16, seed=9).feeds
    found = bench.static(source, data=vectors(), smooth=True, equalize=True, rounding="adaround", bias_correction=True)
    assert bench.notes["equalize"]["pairs"] == [] and bench.notes["smooth"]["smoothed"] == []
    assert error(outputs(source, feeds), outputs(found, feeds)) < 0.05


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.booleans())
def test_the_grid_rounds_by_at_most_half_a_step_and_finds_its_integers_again(
    seed: int, groups: int, outer: int, inner: int, per_channel: bool
) -> None:
    random = np.random.default_rng(seed)
    weight = (random.standard_normal((groups, outer, inner)) * 10.0 ** random.integers(-6, 4)).astype("float32")
    weight[random.random(weight.shape) < 0.1] = 0
    grid = rounding.Grid.of(weight, per_channel)
    integers = grid.nearest(weight)
    assert np.all(np.abs(integers * grid.scale - weight) <= grid.scale * (0.5 + 1e-5))
    onto = grid.values(np.clip(np.floor(weight / grid.scale) + (random.random(weight.shape) < 0.5), -127, 127), weight)
    again = rounding.Grid.of(onto, per_channel)
    if per_channel or np.abs(onto).max() == np.abs(weight).max():
        assert np.array_equal(again.nearest(again.values(again.nearest(onto), onto)), again.nearest(onto))


@pytest.mark.parametrize(("per_channel", "reduced"), [(True, False), (False, False), (True, True)])
def test_the_quantizer_finds_the_integers_that_adaround_chose(bench: Bench, per_channel: bool, reduced: bool) -> None:
    source = artifact(chain(), bench.root / "m")
    built, calibration = prepared(chain(), bench.root / "p", images())
    rounding.adaround(built, everything, calibration, per_channel, 0, silent, reduced)
    chosen = Graph(built)
    found = bench.static(source, rounding="adaround", per_channel=per_channel, reduce_range=reduced)
    written = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(found.path / "model.onnx").graph.initializer}
    nearest = bench.static(source, per_channel=per_channel, reduce_range=reduced)
    plain = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(nearest.path / "model.onnx").graph.initializer}
    moved = 0
    for layer in chosen.layers.values():
        weight = chosen.array(layer.weight)
        parts = grouped(layer, weight).reshape(layer.groups, -1, int(np.prod(grouped(layer, weight).shape[2:])))
        grid = rounding.Grid.of(parts, per_channel, reduced)
        integers = ungrouped(layer, grid.nearest(parts), weight.shape)
        assert np.array_equal(written[f"{layer.weight}_quantized"], integers), layer.name
        assert np.array_equal(written[f"{layer.weight}_scale"], plain[f"{layer.weight}_scale"])
        step = written[f"{layer.weight}_quantized"].astype(int) - plain[f"{layer.weight}_quantized"]
        assert np.abs(step).max() <= 1
        moved += np.count_nonzero(step)
    assert moved > 20


def test_adaround_lowers_the_error_of_every_layer_on_data_that_it_did_not_see(tmp_path: Path) -> None:
    built, calibration = prepared(chain(), tmp_path / "m", images(64))
    graph = Graph(built)
    every = list(graph.layers.values())
    fresh = Calibration(images(64, seed=5), calibration.signature, 300)
    before = {layer.name: graph.array(layer.weight) for layer in every}
    unseen = {layer.name: found for layer, found in second_moments(built, every, fresh, 1, silent)}
    note = rounding.adaround(built, everything, calibration, True, 0, silent)
    assert note["layers"] == 5 and note["error"] < 0.8 and note["nearest"] == []
    for layer in every:
        weight, after = (grouped(layer, w) for w in (before[layer.name], Graph(built).array(layer.weight)))
        weight, after = (part.reshape(*part.shape[:2], -1) for part in (weight, after))
        grid = rounding.Grid.of(weight, True)
        nearest = rounding.errors(grid.nearest(weight) * grid.scale - weight, unseen[layer.name]).sum()
        found = rounding.errors(after - weight, unseen[layer.name]).sum()
        # What `a` reads is white noise: its values are not correlated, and nearest is best.
        assert found < nearest if layer.name != "a" else found < 1.1 * nearest, layer.name


def test_moments_are_those_of_the_unfolded_inputs(tmp_path: Path) -> None:
    import torch

    built, calibration = prepared(chain(), tmp_path / "m", images(4))
    graph = Graph(built)
    found = {
        layer.name: moments
        for layer, moments in second_moments(built, list(graph.layers.values()), calibration, 0, silent)
    }
    pictures = torch.from_numpy(images(4).feeds["image"])
    rows = torch.nn.functional.unfold(pictures, 3, padding=1).transpose(1, 2).reshape(-1, 27).numpy()
    assert found["a"].shape == (1, 27, 27)
    assert np.allclose(found["a"][0], rows.T @ rows / len(rows), atol=1e-4)  # 64 positions: every one is taken
    assert found["b"].shape == (8, 9, 9) and found["e"].shape == (1, 10, 10)


def test_bias_correction_takes_the_mean_shift_away(tmp_path: Path, bench: Bench) -> None:
    source, data = artifact(chain(), bench.root / "m"), images(64)
    feeds = images(256, seed=9).feeds
    expected = outputs(source, feeds)["logits"]
    plain, corrected = (
        outputs(bench.static(source, data=data, per_channel=False, bias_correction=on), feeds)["logits"]
        for on in (False, True)
    )
    assert bench.notes["bias_correction"]["corrected"] == 4, "the last product has no bias, and no place for one"
    assert bench.notes["bias_correction"]["left"] == ["e"]
    shift, rest = (np.abs((found - expected).mean(axis=0)).sum() for found in (plain, corrected))
    assert rest < 0.7 * shift


def test_a_layer_without_a_bias_gets_one_where_its_operator_has_a_place_for_it(bench: Bench) -> None:
    built = convnet()
    conv = next(node for node in built.graph.node if node.name == "node_conv2")
    del conv.input[2]
    source = artifact(built, bench.root / "m")
    found = bench.static(source, bias_correction=True)
    assert bench.notes["bias_correction"] == {"corrected": 3, "left": [], "largest": pytest.approx(0.01, abs=0.02)}
    written = next(n for n in onnx.load(found.path / "model.onnx").graph.node if n.name == "node_conv2")
    assert len(written.input) == 3


def test_the_shift_is_what_the_layer_itself_adds(tmp_path: Path) -> None:
    built, calibration = prepared(chain(), tmp_path / "m", images())
    graph = Graph(built)
    same = bias.mean_shifts(built, built, graph.layers.values(), calibration, silent)
    assert same == {}, "nothing is quantized, so nothing is compared"


@pytest.mark.parametrize("value", [0, 1, 1.0, -0.5, "yes", 2])
def test_an_alpha_outside_0_and_1_is_refused(value: Any) -> None:
    from optimizer import schema

    with pytest.raises(OptimizerError, match="write true, false, or an alpha between 0 and 1"):
        schema.parse(quantize_static.Options, {"smooth": value}, "recipe")


@pytest.mark.parametrize(("option", "said"), [({"equalize": True}, "equalize"), ({"rounding": "adaround"}, "rounding")])
def test_what_nncf_lacks_is_refused_with_what_it_accepts(option: dict[str, Any], said: str) -> None:
    reason = quantize_static.refuse(quantize_static.Options(**option), dataclasses.replace(ORT, format="openvino"))
    assert reason and said in reason and "accepts smooth, bias_correction" in reason
    assert quantize_static.refuse(quantize_static.Options(**option), ORT) is None


def test_constant_and_all_zero_data_still_give_a_model_that_runs(bench: Bench) -> None:
    source = artifact(chain(), bench.root / "m")
    for value in (0.0, 1.0):
        data = images(8)
        data.feeds["image"][:] = value
        for options in ({"method": "mse"}, {"smooth": True, "rounding": "adaround", "bias_correction": True}):
            found = bench.static(source, data=data, **options)
            assert np.isfinite(outputs(found, data.feeds)["logits"]).all()
