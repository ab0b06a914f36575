"""The ONNX format: what is read, what is refused, and a ready file as the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer import formats
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_ready, onnx_source
from optimizer.values import Signature


def linear(weight: float = 1.0, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = x @ w with x float32[N,4]; the second output dimension is known, the first is free."""
    w = numpy_helper.from_array(np.full((4, 3), weight, np.float32), "w")
    x = helper.make_tensor_value_info("x", kind, ["N", 4])
    y = helper.make_tensor_value_info("y", kind, ["N", 3])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def stored(path: Path, model: onnx.ModelProto) -> Path:
    path.mkdir(exist_ok=True)
    onnx.save(model, path / "model.onnx")
    return path


def test_signature_keeps_symbolic_names(tmp_path):
    signature = formats.read("onnx", stored(tmp_path / "a", linear()))
    assert {s.name: str(s) for s in (*signature.inputs, *signature.outputs)} == {
        "x": "float32[N,4]",
        "y": "float32[N,3]",
    }


def test_initializers_that_are_listed_as_inputs_are_none(tmp_path):
    model = linear()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3]))
    assert [s.name for s in onnx_format.signature(model).inputs] == ["x"]


def test_size_counts_external_data(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_format, "EXTERNAL_ABOVE", 10)
    big = helper.make_tensor("big", TensorProto.FLOAT, [4096], np.zeros(4096, np.float32).tobytes(), raw=True)
    model = linear()
    model.graph.initializer.append(big)
    (tmp_path / "a").mkdir()
    onnx_format.save(model, tmp_path / "a")
    assert sorted(p.name for p in onnx_format.files(tmp_path / "a")) == ["model.onnx", "model.onnx.data"]
    assert formats.size("onnx", tmp_path / "a") == sum(p.stat().st_size for p in (tmp_path / "a").iterdir())
    assert onnx_format.load(tmp_path / "a").graph.initializer[1].raw_data == big.raw_data
    (tmp_path / "a" / "model.onnx.data").unlink()
    with pytest.raises(OptimizerError, match=r"'model\.onnx\.data', which is missing"):
        formats.read("onnx", tmp_path / "a")


def test_missing_cut_and_empty_files(tmp_path):
    with pytest.raises(OptimizerError, match="no such model file"):
        formats.read("onnx", tmp_path)
    path = stored(tmp_path / "a", linear())
    for content in (b"", (path / "model.onnx").read_bytes()[:40], b"not a model at all"):
        (path / "model.onnx").write_bytes(content)
        with pytest.raises(OptimizerError, match=r"no ONNX model|not valid"):
            formats.read("onnx", path)


def test_a_graph_that_is_not_ssa_is_refused(tmp_path):
    model = linear()
    model.graph.node.append(helper.make_node("Relu", ["x"], ["y"]))
    with pytest.raises(OptimizerError, match=r"not valid ONNX.*SSA"):
        formats.read("onnx", stored(tmp_path / "a", model))


def test_what_the_runtime_refuses_is_said(tmp_path):
    model = linear()
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    model.graph.node[0].domain, model.graph.node[0].op_type = "my.ops", "Frobnicate"
    with pytest.raises(OptimizerError, match=r"ONNX Runtime .* refuses .*Frobnicate"):
        onnx_format.inference_session(stored(tmp_path / "a", model), 1)


def test_unknown_format_is_our_bug(tmp_path):
    with pytest.raises(AssertionError, match="BUG"):
        formats.read("tflite", tmp_path)


def test_a_ready_file_is_taken_over_byte_for_byte(bench, tmp_path):
    onnx.save(linear(), tmp_path / "mine.onnx")
    found = bench.load(file=str(tmp_path / "mine.onnx"), feeds=[{"x": np.ones((2, 4), np.float32)}])
    assert found.format == "onnx"
    assert (found.path / "model.onnx").read_bytes() == (tmp_path / "mine.onnx").read_bytes()
    assert bench.notes == {"opset": {"ai.onnx": 18}, "ir_version": 10}


@pytest.mark.parametrize(("most", "files"), [(1000, ["model.onnx", "model.onnx.data"]), (10**6, ["model.onnx"])])
def test_external_data_under_any_name_is_merged(bench, tmp_path, monkeypatch, most, files):
    monkeypatch.setattr(onnx_format, "EXTERNAL_ABOVE", most)
    model = linear()
    model.graph.initializer.append(numpy_helper.from_array(np.arange(512, dtype=np.float32), "big"))
    onnx.save(model, tmp_path / "mine.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    found = bench.load(file=str(tmp_path / "mine.onnx"))
    assert sorted(p.name for p in found.path.iterdir()) == files
    big = next(t for t in onnx_format.load(found.path).graph.initializer if t.name == "big")
    np.testing.assert_array_equal(numpy_helper.to_array(big), np.arange(512))
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(OptimizerError, match=r"'weights\.bin', which is missing"):
        bench.load(file=str(tmp_path / "mine.onnx"))


def classifier(**layout):
    """What exporters wrote years ago: defaults among the inputs, opset 11, a Dropout, nodes without names."""
    weights = [
        numpy_helper.from_array(np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8), "w/1"),
        numpy_helper.from_array(np.linspace(1, -1, 24, dtype=np.float32).reshape(8, 3), "w 2"),
    ]
    nodes = [
        helper.make_node("MatMul", ["in:0", "w/1"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b"], ratio=0.5),
        helper.make_node("MatMul", ["b", "w 2"], ["out:0"]),
    ]
    inputs = [helper.make_tensor_value_info("in:0", TensorProto.FLOAT, ["N", 4])]
    inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    outputs = [helper.make_tensor_value_info("out:0", TensorProto.FLOAT, ["N", 3])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], **layout)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("ir", [3, 8])
def test_an_old_exporters_file_is_ready_for_quantizers(bench, tmp_path, external, ir):
    onnx.save(classifier(ir_version=ir), tmp_path / "m.onnx", save_as_external_data=external, size_threshold=0)
    found = bench.load(file=str(tmp_path / "m.onnx"))
    ready = onnx_ready.prepared(found)
    assert [value.name for value in ready.graph.input] == ["in:0"]
    assert {node.op_type for node in ready.graph.node} == {"MatMul"}
    onnx_format.save(ready, tmp_path)
    feeds = {"in:0": np.ones((2, 4), np.float32)}
    got = [onnx_format.inference_session(f, 1).run(None, feeds)[0] for f in (tmp_path, found.path)]
    np.testing.assert_array_equal(*got)


def test_external_data_outside_the_folder_is_refused(bench, tmp_path):
    (tmp_path / "in").mkdir()
    onnx.save(linear(), tmp_path / "in" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "in" / "w.bin").rename(tmp_path / "w.bin")
    data = (tmp_path / "in" / "m.onnx").read_bytes()
    model = onnx.load_from_string(data)
    for entry in model.graph.initializer[0].external_data:
        entry.value = "../w.bin" if entry.key == "location" else entry.value
    (tmp_path / "in" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(OptimizerError):
        bench.load(file=str(tmp_path / "in" / "m.onnx"))


def test_the_recipe_may_rename_free_dimensions_and_nothing_else(bench, tmp_path):
    onnx.save(linear(), tmp_path / "mine.onnx")
    file = str(tmp_path / "mine.onnx")
    signature = bench.load(file=file, inputs={"x": "float32[batch,4]"}).signature
    assert [str(s) for s in (*signature.inputs, *signature.outputs)] == ["float32[batch,4]", "float32[batch,3]"]
    for inputs in ({"x": "float32[2,4]"}, {"x": "int64[batch,4]"}, {"z": "float32[batch,4]"}):
        with pytest.raises(OptimizerError, match=r"float32\[N,4\]"):
            bench.load(file=file, inputs=inputs)


def test_a_ready_file_must_work_on_the_samples(bench, tmp_path):
    onnx.save(linear(float("nan")), tmp_path / "nan.onnx")
    with pytest.raises(OptimizerError, match="'y' holds NaN or Inf"):
        bench.load(file=str(tmp_path / "nan.onnx"), feeds=[{"x": np.ones((2, 4), np.float32)}])
    onnx.save(linear(), tmp_path / "fine.onnx")
    with pytest.raises(OptimizerError, match="does not run on x float64"):
        bench.load(file=str(tmp_path / "fine.onnx"), feeds=[{"x": np.ones((2, 4))}])


def test_an_old_operator_set_is_warned_of(bench, tmp_path):
    model = linear()
    model.opset_import[0].version = 11
    onnx.save(model, tmp_path / "old.onnx")
    bench.load(file=str(tmp_path / "old.onnx"))
    assert bench.warnings == ["old.onnx uses opset 11, some steps need 13 or later"]


def test_a_file_with_an_opset_from_the_future_is_not_taken_in(tmp_path):
    model = linear()
    model.opset_import[0].version = 99
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(OptimizerError, match=r"m\.onnx has opset 99, onnx .* knows them up to \d+") as caught:
        onnx_source.copy(tmp_path / "m.onnx", Signature((), ()), tmp_path)
    assert "older opset" in caught.value.hint
