"""half in bfloat16: what is written, what is too coarse for 8 bits, and how a CPU without it computes it."""

from __future__ import annotations

import itertools
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from quant_lab import (
    FLOAT,
    INT64,
    TENSORRT,
    Bench,
    Data,
    artifact,
    convnet,
    error,
    images,
    model,
    op_types,
    outputs,
    precision,
    weights,
)

from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_bfloat16
from optimizer.passes import half
from optimizer.passes.half import numbers
from optimizer.targets import tensorrt_rtx

BF16 = ml_dtypes.bfloat16


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def rounded(values: np.ndarray) -> np.ndarray:
    return values.astype(BF16).astype(np.float32)


def test_all_is_bfloat16_but_inputs_and_outputs(bench: Bench) -> None:
    source, data = artifact(convnet(), bench.root / "m"), images(8)
    found = bench.run(half, source, TENSORRT, data, dtype="bf16")
    built = onnx_format.load(found.path)
    assert {t.data_type for t in built.graph.initializer} == {TensorProto.BFLOAT16}
    assert onnx_format.read(found.path) == source.signature
    assert [n.op_type for n in built.graph.node].count("Cast") == 2, "one behind the input, one before the output"
    assert built.opset_import[0].version == 22, "where convolutions take bfloat16"
    onnx.checker.check_model(built, full_check=True)  # types
    assert bench.notes["guard"]["float32"] == {}
    assert 1e-4 < error(outputs(source, data.feeds), outputs(found, data.feeds)) < 0.03
    assert precision(found) == "float32 emulating bfloat16"


def test_an_old_model_is_raised_with_its_file_format_and_keeps_what_nodes_say(bench: Bench) -> None:
    built = convnet(opset=13)
    built.ir_version = 7
    built.graph.node[0].metadata_props.add(key="place", value="net.py, line 3")
    found = bench.run(half, artifact(built, bench.root / "m"), TENSORRT, images(8), dtype="bf16")
    raised = onnx_format.load(found.path)
    assert (raised.opset_import[0].version, raised.ir_version) == (22, 10)
    conv = next(node for node in raised.graph.node if node.name == built.graph.node[0].name)
    assert [(entry.key, entry.value) for entry in conv.metadata_props] == [("place", "net.py, line 3")]


def test_the_emulation_is_bfloat16_to_the_last_bit(bench: Bench) -> None:
    random = np.random.default_rng(0)
    w, x = random.standard_normal((16, 4), "float32"), random.standard_normal((8, 16), "float32")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Mul", ["h", "h"], ["y"], name="square"),
    ]
    source = artifact(model(nodes, {"x": ["n", 16]}, {"y": ["n", 4]}, weights(w=w)), bench.root / "m")
    found = bench.run(half, source, TENSORRT, Data({"x": x}), dtype="bf16")
    product = rounded(rounded(x) @ rounded(w))
    assert (outputs(found, {"x": x})["y"] == rounded(product * product)).all()
    assert not onnx_bfloat16.holds(onnx_bfloat16.emulated(onnx_format.load(source.path)))


def test_what_float16_cannot_hold_needs_no_float32(bench: Bench) -> None:
    lowest = np.finfo(np.float32).min
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["h"], name="grow"),
        helper.make_node("Mul", ["h", "small"], ["s"], name="shrink"),
        helper.make_node("Max", ["s", "floor"], ["y"], name="bound"),
    ]
    tensors = weights(large=np.eye(4, dtype="float32") * 1e30, small=np.float32(1e-30), floor=lowest)
    source = artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    data = Data({"x": np.random.default_rng(0).standard_normal((8, 4), "float32")})
    found = bench.run(half, source, TENSORRT, data, dtype="bf16")
    assert bench.notes["guard"]["float32"] == {}
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx_format.load(found.path).graph.initializer}
    assert float(stored["floor_bfloat16"]) == -numbers.BFLOAT16.largest, "rounded to nearest it is minus infinity"
    assert error(outputs(source, data.feeds), outputs(found, data.feeds)) < 0.02


def test_a_cosine_of_large_angles_stays_with_all_that_makes_its_angle(bench: Bench) -> None:
    nodes = [
        helper.make_node("Cast", ["positions"], ["p"], name="float", to=FLOAT),
        helper.make_node("Mul", ["p", "frequency"], ["angle"], name="times"),
        helper.make_node("Cos", ["angle"], ["c"], name="cosine"),
        helper.make_node("MatMul", ["c", "w"], ["y"], name="product"),
    ]
    tensors = weights(frequency=np.ones(4, "float32") * 0.7, w=np.eye(4, dtype="float32"))
    built = model(nodes, {"positions": ["n", 4]}, {"y": ["n", 4]}, tensors, kinds={"positions": INT64})
    source = artifact(built, bench.root / "m")
    data = Data({"positions": np.arange(2000, 2064).reshape(16, 4)})
    found = bench.run(half, source, TENSORRT, data, dtype="bf16")
    assert list(bench.notes["guard"]["float32"]) == ["float", "times", "cosine"]
    assert "off once all is rounded to bfloat16" in bench.notes["guard"]["float32"]["cosine"]
    assert error(outputs(source, data.feeds), outputs(found, data.feeds)) < 0.01
    ruined = bench.run(half, source, TENSORRT, data, dtype="bf16", guard=False)
    assert error(outputs(source, data.feeds), outputs(ruined, data.feeds)) > 0.5


def test_an_index_that_is_computed_in_floats_is_not_rounded(bench: Bench) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["place"], name="scale"),
        helper.make_node("Cast", ["place"], ["index"], name="index", to=INT64),
        helper.make_node("Gather", ["table", "index"], ["row"], name="look"),
        helper.make_node("MatMul", ["row", "w"], ["y"], name="product"),
    ]
    table = np.random.default_rng(0).standard_normal((1024, 4), "float32")
    tensors = weights(scale=np.float32(1), table=table, w=np.eye(4, dtype="float32"))
    source = artifact(model(nodes, {"x": ["n"]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    data = Data({"x": np.arange(600, 616, dtype="float32")})
    found = bench.run(half, source, TENSORRT, data, dtype="bf16")
    assert {"scale", "index"} <= {*bench.notes["guard"]["float32"]}
    assert error(outputs(source, data.feeds), outputs(found, data.feeds)) < 0.01


def test_bodies_and_wide_nodes_read_float32_and_constants_are_there_twice(bench: Bench) -> None:
    def body(op: str, inputs: list[str], name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, FLOAT, ["n", 4])
        return helper.make_graph([helper.make_node(op, inputs, [name])], name, [], [value])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node(
            "If",
            ["yes"],
            ["z"],
            name="branch",
            then_branch=body("Mul", ["h", "h"], "t"),
            else_branch=body("Neg", ["h"], "e"),
        ),
        helper.make_node("MatMul", ["z", "w"], ["v"], name="last"),
        helper.make_node("MatMul", ["v", "w"], ["y"], name="wide"),
    ]
    tensors = weights(w=np.eye(4, dtype="float32") * 2, yes=np.array(True))
    source = artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    data = Data({"x": np.random.default_rng(0).standard_normal((8, 4), "float32")})
    found = bench.run(half, source, TENSORRT, data, dtype="bf16", keep=["wide"])
    kinds = {t.name: t.data_type for t in onnx_format.load(found.path).graph.initializer}
    assert kinds == {"w": FLOAT, "w_bfloat16": TensorProto.BFLOAT16, "yes": TensorProto.BOOL}
    assert op_types(found).count("Cast") == 4
    assert error(outputs(source, data.feeds), outputs(found, data.feeds)) < 0.02


def test_without_weights_left_to_narrow_it_says_so(bench: Bench) -> None:
    source = artifact(convnet(), bench.root / "m")
    with pytest.raises(Exception, match="no weight can be bfloat16"):
        bench.run(half, source, TENSORRT, images(8), dtype="bf16", keep=["*"])


def test_what_a_few_nodes_do_not_mend_is_told_and_lets_them_go(bench: Bench) -> None:
    # The cosine of what twelve sums made: its angle is rounded twelve nodes before.
    names = ["x", *(f"s{place}" for place in range(12))]
    nodes = [
        helper.make_node("Add", [before, "zero"], [after], name=f"sum_{after}")
        for before, after in itertools.pairwise(names)
    ]
    nodes.append(helper.make_node("Cos", [names[-1]], ["c"], name="cosine"))
    nodes.append(helper.make_node("MatMul", ["c", "w"], ["y"], name="product"))
    tensors = weights(zero=np.float32(0), w=np.eye(4, dtype="float32"))
    source = artifact(model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, tensors), bench.root / "m")
    data = Data({"x": np.random.default_rng(0).uniform(1000, 2000, (16, 4)).astype("float32")})
    bench.run(half, source, TENSORRT, data, dtype="bf16")
    assert bench.notes["guard"]["float32"] == {}
    (told,) = [text for text in bench.warnings if "too coarse" in text]
    assert told.startswith("bfloat16 is too coarse for 'c' (") and "does not mend it" in told


def test_operators_that_the_parser_refuses_in_bfloat16_stay_in_float32(bench: Bench) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("HardSwish", ["a"], ["b"], name="swish"),
        helper.make_node("MatMul", ["b", "w"], ["y"], name="second"),
    ]
    built = model(nodes, {"x": ["n", 4]}, {"y": ["n", 4]}, weights(w=np.eye(4, dtype="float32")))
    feeds = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype("float32")}
    found = bench.run(half, artifact(built, bench.root / "m"), TENSORRT, Data(feeds), dtype="bf16")
    graph = onnx_format.load(found.path).graph
    made = {out: node.op_type for node in graph.node for out in node.output}
    swish = next(node for node in graph.node if node.op_type == "HardSwish")
    assert made[swish.input[0]] == "Cast", "it is cast to float32 and back around it"
    assert {t.data_type for t in graph.initializer} == {TensorProto.BFLOAT16}
    if tensorrt_rtx.probe() is None:
        assert not tensorrt_rtx.preflight(found.path / onnx_format.FILE).refused
