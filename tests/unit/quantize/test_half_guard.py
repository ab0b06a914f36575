"""The guard of half: what float16 cannot hold stays in float32, seen on data, on both targets."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnxconverter_common import float16
from quant_lab import (
    FLOAT,
    OPENVINO,
    ORT,
    Bench,
    Data,
    artifact,
    attention,
    error,
    lowered,
    model,
    op_types,
    outputs,
    tokens,
    vectors,
    weights,
)

from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.passes import half
from optimizer.passes.half import masks, numbers
from optimizer.values import Artifact


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def overflowing() -> onnx.ModelProto:
    """(n, 6, 16): activations and weights of 1e5, a normalization over them, weights of 1e-7, and a plain product."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / np.sqrt(shape[0])).astype("float32")

    tensors = {"grow.weight": normal(16, 16) * 3e4, "gain": np.ones(16, "float32"), "shift": np.zeros(16, "float32")}
    tensors |= {"tiny.weight": normal(16, 16) * 1e-7, "up": np.float32(1e7), "huge.weight": normal(16, 16) * 1.2e5}
    tensors |= {"down": np.float32(1e-6), "plain.weight": normal(16, 16)}
    nodes = [
        helper.make_node("MatMul", ["x", "grow.weight"], ["h1"], name="grow"),
        helper.make_node("LayerNormalization", ["h1", "gain", "shift"], ["h2"], name="norm", axis=-1),
        helper.make_node("MatMul", ["h2", "tiny.weight"], ["t1"], name="tiny"),
        helper.make_node("Mul", ["t1", "up"], ["t2"], name="amplify"),
        helper.make_node("MatMul", ["t2", "huge.weight"], ["t3"], name="huge"),
        helper.make_node("Mul", ["t3", "down"], ["t4"], name="damp"),
        helper.make_node("MatMul", ["t4", "plain.weight"], ["t5"], name="plain"),
        helper.make_node("Relu", ["t5"], ["y"], name="relu"),
    ]
    return model(
        nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 16]}, weights(**{n: np.asarray(a) for n, a in tensors.items()})
    )


def strictly(found: Artifact, data: Data) -> dict[str, np.ndarray]:
    """The outputs by the reference implementation, which rounds every float16 value as it says."""
    names = [spec.name for spec in found.signature.outputs]
    with np.errstate(all="ignore"):
        return dict(zip(names, ReferenceEvaluator(onnx_format.load(found.path)).run(names, data.feeds), strict=True))


def test_what_overflows_or_vanishes_stays_in_float32(bench: Bench) -> None:
    source, data = artifact(overflowing(), bench.root / "m"), vectors(16)
    found = bench.run(half, source, ORT, data)
    kept = bench.notes["guard"]["float32"]
    assert list(kept) == ["grow", "norm", "tiny", "amplify", "huge", "damp"]
    assert kept["norm"].startswith("'h1' reaches") and kept["huge"].startswith("'huge.weight': values reach")
    assert "float16 keeps too few bits" in kept["tiny"]
    assert bench.notes["guard"]["seen_on"] == "calibrate data 'tiny'"
    assert len(bench.warnings) == 1 and "6 of 8 nodes stay in float32: grow ('h1' reaches" in bench.warnings[0]
    assert error(outputs(source, data.feeds), strictly(found, data)) < 2e-3
    kinds = {t.name: t.data_type for t in onnx_format.load(found.path).graph.initializer}
    assert kinds["huge.weight"] == FLOAT and kinds["plain.weight"] == onnx.TensorProto.FLOAT16
    # Between two nodes that stay, nothing is cast: float16 would be infinity.
    assert op_types(found).count("Cast") == 2


def test_without_the_guard_the_same_model_is_ruined(bench: Bench) -> None:
    source, data = artifact(overflowing(), bench.root / "m"), vectors(16)
    found = bench.run(half, source, ORT, data, guard=False)
    assert not np.isfinite(strictly(found, data)["y"]).all()
    assert "guard" not in bench.notes and not data.given


def test_keep_comes_on_top(bench: Bench) -> None:
    source = artifact(overflowing(), bench.root / "m")
    found = bench.run(half, source, ORT, vectors(16), keep=["relu", "huge"])
    assert bench.notes["kept"] == ["huge", "relu"] and "huge" not in bench.notes["guard"]["float32"]
    assert error(outputs(source, vectors(16).feeds), strictly(found, vectors(16))) < 2e-3
    with pytest.raises(OptimizerError, match="no weight can be float16: every node that reads one stays"):
        bench.run(half, source, ORT, vectors(16), keep=["plain"])


def test_sums_inside_a_node_count_where_its_values_do_not(bench: Bench) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("LayerNormalization", ["h", "gain", "shift"], ["n"], name="norm", axis=-1),
        helper.make_node("ReduceMean", ["n", "axes"], ["y"], name="mean", keepdims=0),
    ]
    gain = np.ones(16, "float32")
    tensors = weights(w=np.eye(16, dtype="float32") * 200, gain=gain, shift=gain, axes=np.array([1]))
    source = artifact(model(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 16]}, tensors), bench.root / "m")
    bench.run(half, source, ORT, vectors(16))
    assert list(bench.notes["guard"]["float32"]) == ["norm"]
    assert "sums of squares inside reach" in bench.notes["guard"]["float32"]["norm"]


def test_the_margin_is_for_values_that_were_not_seen(bench: Bench) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    source = artifact(
        model(nodes, {"x": ["n", 2]}, {"y": ["n", 2]}, weights(w=np.eye(2, dtype="float32"), v=np.ones(1))),
        bench.root / "m",
    )
    data = Data({"x": np.array([[40000.0, 1.0]] * 4, "float32")})
    with pytest.raises(OptimizerError, match="product: 'y' reaches 4e\\+04"):
        bench.run(half, source, ORT, data)
    bench.run(half, source, ORT, data, margin=1.5)
    assert bench.notes["guard"]["float32"] == {}


def test_what_rounding_turns_into_infinity_is_found_by_rehearsal(bench: Bench) -> None:
    # 1 / ((x + 1000) - 1000): every value fits, but in float16 the difference is zero.
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["a"], name="there"),
        helper.make_node("Sub", ["a", "shift"], ["b"], name="back"),
        helper.make_node("Reciprocal", ["b"], ["c"], name="invert"),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="product"),
    ]
    tensors = weights(shift=np.float32(1000), w=np.eye(4, dtype="float32"))
    source = artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    data = Data({"x": np.random.default_rng(0).uniform(0.05, 0.2, (8, 4)).astype("float32")})
    found = bench.run(half, source, ORT, data)
    assert list(bench.notes["guard"]["float32"]) == ["there", "back", "invert"]
    assert "NaN or infinity once its inputs are rounded" in bench.notes["guard"]["float32"]["invert"]
    assert error(outputs(source, data.feeds), strictly(found, data)) < 2e-3


@pytest.mark.parametrize("mask", [float(np.finfo(np.float32).min), -1e9, float("-inf")])
def test_masks_of_attention_need_no_float32(bench: Bench, mask: float) -> None:
    source, data = artifact(attention(mask), bench.root / "m"), tokens(8)
    found = bench.run(half, source, ORT, data)
    assert bench.notes["guard"]["float32"] == {}
    assert error(outputs(source, data.feeds), strictly(found, data)) < 2e-3
    hidden = next(t for t in onnx_format.load(found.path).graph.initializer if t.name == "hidden")
    assert onnx.numpy_helper.to_array(hidden).min() == (mask if np.isinf(mask) else masks.STORED)


def test_a_low_constant_that_is_no_mask_is_not_taken_for_one(bench: Bench) -> None:
    built = attention(-1e9)
    built.graph.output.append(helper.make_tensor_value_info("masked", FLOAT, ["n", 5, 5]))
    bench.run(half, artifact(built, bench.root / "m"), ORT, tokens(8))
    assert list(bench.notes["guard"]["float32"]) == ["mask", "softmax"]


def test_bounds_beyond_float16_bound_nothing_there(bench: Bench) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Clip", ["h", "low", "high"], ["y"], name="clip"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32"), low=np.float32(0), high=np.float32(3e38))
    source = artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    data = Data({"x": np.random.default_rng(0).standard_normal((8, 4)).astype("float32")})
    found = bench.run(half, source, ORT, data)
    assert bench.notes["guard"]["float32"] == {}
    assert error(outputs(source, data.feeds), strictly(found, data)) < 2e-3


def test_bodies_of_branches_keep_reading_float32(bench: Bench) -> None:
    then = helper.make_graph(
        [helper.make_node("Mul", ["h", "h"], ["t"])], "then", [], [helper.make_tensor_value_info("t", FLOAT, ["n", 4])]
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["e"])], "else", [], [helper.make_tensor_value_info("e", FLOAT, ["n", 4])]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("If", ["yes"], ["z"], name="branch", then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["z", "w"], ["y"], name="last"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32") * 2, yes=np.array(True))
    source = artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    feeds = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype("float32")}
    found = bench.run(half, source, ORT, Data(feeds))
    assert error(outputs(source, feeds), outputs(found, feeds)) < 2e-3


def test_what_is_float16_in_some_places_alone_stays_with_casts_around_it(bench: Bench) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], name="resize", mode="nearest"),
        helper.make_node("Conv", ["b", "w"], ["y"], name="last"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32").reshape(4, 4, 1, 1), scales=np.array([1, 1, 2, 2], "float32"))
    source = artifact(model(nodes, {"x": ["n", 4, 3, 3]}, {"y": ["n", 4, 6, 6]}, tensors), bench.root / "m")
    feeds = {"x": np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype("float32")}
    found = bench.run(half, source, ORT, Data(feeds))
    assert error(outputs(source, feeds), outputs(found, feeds)) < 2e-3
    kinds = {t.name: t.data_type for t in onnx_format.load(found.path).graph.initializer}
    assert kinds == {"w": onnx.TensorProto.FLOAT16, "scales": FLOAT}
    assert op_types(found) == ["Cast", "Conv", "Cast", "Resize", "Cast", "Conv", "Cast"]


def test_a_constant_of_narrow_and_of_wide_nodes_is_there_twice(bench: Bench) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="narrow"),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="wide"),
        helper.make_node("Add", ["b", "x"], ["c"], name="sum"),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="last"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32"))
    built = model(nodes, {"x": ["n", 4]}, {"y": ["n", 4], "b": ["n", 4]}, tensors)
    source, feeds = artifact(built, bench.root / "m"), {"x": np.full((8, 4), 0.3, "float32")}
    found = bench.run(half, source, ORT, Data(feeds), keep=["wide", "sum"])
    graph = onnx_format.load(found.path).graph
    assert {t.name: t.data_type for t in graph.initializer} == {"w": FLOAT, "w_float16": onnx.TensorProto.FLOAT16}
    read = {node.name: list(node.input) for node in graph.node}
    assert read["sum"] == [read["sum"][0], "x"], "what is float32 at both ends is read as it is"
    assert op_types(found).count("Cast") == 4
    assert [value.name for value in graph.output] == ["y", "b"]
    assert error(outputs(source, feeds), outputs(found, feeds)) < 2e-3


def test_a_product_that_onnxruntime_dies_of_stays_in_float32(bench: Bench) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="sum"),
        helper.make_node("Transpose", ["a"], ["t"], name="swap", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="product"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32"), b=np.ones(4, "float32"))
    source = artifact(model(nodes, {"x": [5, "n", 4]}, {"y": ["n", 5, 4]}, tensors), bench.root / "m")
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 1, 4)).astype("float32")}
    found = bench.run(half, source, ORT, Data(feeds))
    assert "crashes" in bench.notes["guard"]["float32"]["product"]
    assert error(outputs(source, feeds), outputs(found, feeds)) < 2e-3


def test_products_that_only_look_like_it_run_in_float16(bench: Bench) -> None:
    """Heads of attention, and two activations in the very order: ONNX Runtime really runs both here."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="heads", perm=[0, 2, 1, 3]),
        helper.make_node("MatMul", ["t", "w"], ["h"], name="behind heads"),
        helper.make_node("Transpose", ["z"], ["s"], name="swap", perm=[1, 0, 2]),
        helper.make_node("Transpose", ["z"], ["u"], name="other", perm=[1, 2, 0]),
        helper.make_node("MatMul", ["s", "u"], ["p"], name="two activations"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32"))
    inputs, ends = {"x": ["n", 3, 2, 4], "z": ["n", 5, 4]}, {"h": ["n", 2, 3, 4], "p": [5, "n", "n"]}
    source = artifact(model(nodes, inputs, ends, tensors), bench.root / "m")
    random = np.random.default_rng(0)
    shapes = {"x": (2, 3, 2, 4), "z": (2, 5, 4)}
    feeds = {name: random.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    found = bench.run(half, source, ORT, Data(feeds))
    assert not bench.notes["guard"]["float32"]
    assert error(outputs(source, feeds), outputs(found, feeds)) < 2e-3


def test_outputs_that_nobody_asked_for_are_no_obstacle(bench: Bench) -> None:
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r"], ["", "h", ""], name="lstm", hidden_size=4),
        helper.make_node("LSTM", ["x", "w", "r"], ["", "g"], name="other", hidden_size=4),
        helper.make_node("Add", ["h", "g"], ["y"], name="sum"),
    ]
    tensors = weights(
        w=random.standard_normal((1, 16, 3)).astype("float32"), r=random.standard_normal((1, 16, 4)).astype("float32")
    )
    source = artifact(model(nodes, {"x": [5, "n", 3]}, {"y": [1, "n", 4]}, tensors), bench.root / "m")
    feeds = {"x": random.standard_normal((5, 1, 3)).astype("float32")}
    found = bench.run(half, source, ORT, Data(feeds), keep=["other"])
    assert error(outputs(source, feeds), outputs(found, feeds)) < 2e-3


def test_sums_of_integers_stay_what_they_are(bench: Bench) -> None:
    """A detector counts what it has found: no sum that float16 could lose."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        helper.make_node("Greater", ["y", "least"], ["more"], name="more"),
        helper.make_node("Cast", ["more"], ["ones"], name="ones", to=onnx.TensorProto.INT64),
        helper.make_node("ReduceSum", ["ones", "axes"], ["count"], name="count", keepdims=0),
    ]
    random = np.random.default_rng(0)
    tensors = weights(w=random.standard_normal((6, 6)).astype("float32"), least=np.float32(0), axes=np.array([1]))
    kinds = {"count": onnx.TensorProto.INT64}
    source = artifact(model(nodes, {"x": ["n", 6]}, {"y": ["n", 6], "count": ["n"]}, tensors, kinds), bench.root / "m")
    feeds = {"x": random.standard_normal((8, 6)).astype("float32")}
    found = bench.run(half, source, ORT, Data(feeds))
    assert outputs(found, feeds)["count"].dtype == np.int64


def test_openvino_clamps_nothing_and_computes_where_values_fit(bench: Bench) -> None:
    source = lowered(artifact(overflowing(), bench.root / "m"), bench.root / "ir")
    data = vectors(16)
    found = bench.run(half, source, OPENVINO, data)
    assert openvino_format.precision(found.path) == "bf16"
    kept = bench.notes["guard"]["float32"]
    assert any("values reach" in why for why in kept.values()) and any("too few bits" in why for why in kept.values())
    assert any(why.startswith("reaches") for why in bench.notes["beyond"].values())
    assert len(bench.warnings) == 2 and "asked to compute in bf16" in bench.warnings[1]
    exact = outputs(source, data.feeds)
    assert error(exact, outputs(found, data.feeds)) < 0.05  # bfloat16 has 8 bits of mantissa
    stored = [
        np.asarray(op.data) for op in openvino_format.load(found.path).get_ops() if op.get_type_name() == "Constant"
    ]
    assert max(float(np.abs(a).max()) for a in stored if a.dtype == np.float32) > numbers.LARGEST
    assert any(a.dtype == np.float16 for a in stored)


def test_openvino_alone_clamps_a_few_large_weights_without_a_word(bench: Bench) -> None:
    weight = np.eye(16, dtype="float32")
    weight[0, 0] = 1e6
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    built = model(nodes, {"x": ["n", 6, 16]}, {"y": ["n", 6, 16]}, weights(w=weight))
    source, data = lowered(artifact(built, bench.root / "m"), bench.root / "ir"), vectors(16)
    exact = outputs(source, data.feeds)
    assert error(exact, outputs(bench.run(half, source, OPENVINO, data, guard=False), data.feeds)) > 0.9
    assert error(exact, outputs(bench.run(half, source, OPENVINO, data), data.feeds)) < 0.01
    assert "1 of 1 weights stay in float32" in bench.warnings[-2]


def test_openvino_keeps_float16_where_all_fits(bench: Bench) -> None:
    source = lowered(artifact(attention(), bench.root / "m"), bench.root / "ir")
    found = bench.run(half, source, OPENVINO, tokens(8))
    assert openvino_format.precision(found.path) == "f16" and bench.notes["guard"]["float32"] == {}
    assert bench.notes["beyond"] == {} and not any("stay in float32" in text for text in bench.warnings)
    with pytest.raises(OptimizerError, match="no float32 weights"):
        bench.run(half, found, OPENVINO, tokens(8))


def test_without_data_it_says_what_it_looked_at(bench: Bench) -> None:
    bench.run(half, artifact(overflowing(), bench.root / "m"), ORT)
    assert bench.notes["guard"]["seen_on"] == "made-up inputs"
    assert "made-up inputs only" in bench.warnings[0] and "huge" in bench.notes["guard"]["float32"]


def test_data_is_welcome_but_not_needed() -> None:
    assert half.welcome(half.Options()) == half.welcome(half.Options(dtype="bf16")) == ("calibrate", "evaluate")
    assert half.welcome(half.Options(guard=False)) == ()


@example(np.array([2.0**-24, 2.0**-126], np.float32))  # the second becomes as large as the first
@given(arrays.arrays(np.float32, st.integers(1, 20), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_constants_keep_their_sign_and_never_become_zero_or_infinite(values: np.ndarray) -> None:
    found = numbers.FLOAT16.stored(values)
    assert np.isfinite(found).all() and (np.sign(found) == np.sign(values)).all()
    if numbers.fault(values) is None:
        size = np.linalg.norm(values.astype(np.float64))
        assert np.linalg.norm(found.astype(np.float64) - values) <= 1.1 * numbers.LOST * size
    with warnings.catch_warnings(action="ignore"):
        library = float16.convert_np_to_float16(values, numbers.SMALLEST, numbers.LARGEST)
    assert (found == library).all(), "what is rehearsed is what onnxconverter-common writes"
    inside = np.abs(values) <= numbers.LARGEST
    usual = inside & (np.abs(values) >= numbers.NORMAL)
    assert (found[usual] == values[usual].astype(np.float16)).all()


def plan_keys(recipe: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    from optimizer import plan
    from optimizer import recipe as recipes

    found = plan.plan(recipes.parse(recipe, "recipe", tmp_path))
    return next(step.ingredients for step in found.steps if step.use == "half")


def test_the_first_data_that_there_is_goes_into_the_key(tmp_path: Path) -> None:
    onnx.save(overflowing(), tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", **vectors(16).feeds)
    np.savez(tmp_path / "b.npz", **vectors(20, seed=5).feeds)
    recipe = {"schema": 1, "model": {"file": "m.onnx"}, "variants": {"fp32": [], "fp16": ["half"]}}
    recipe |= {"targets": ["onnxruntime"], "baseline": "fp32"}
    none = plan_keys(recipe, tmp_path)
    assert "data" not in none and "seed" in none
    both = plan_keys({**recipe, "data": {"evaluate": "b.npz", "calibrate": "a.npz"}}, tmp_path)
    assert set(both["data"]) == {"calibrate"}
    assert set(plan_keys({**recipe, "data": {"evaluate": "b.npz"}}, tmp_path)["data"]) == {"evaluate"}
    off = {**recipe, "data": {"evaluate": "b.npz"}, "variants": {"fp32": [], "fp16": [{"half": {"guard": False}}]}}
    assert "data" not in plan_keys(off, tmp_path)
