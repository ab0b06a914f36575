"""A glance at a model file gives what parsing it gives, and damaged files are told from models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import quant_lab as lab
from onnx import TensorProto, helper

from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_glance


def paired(kind: int, attribute: bool) -> onnx.ModelProto:
    """A pair around an input, its zero point of this type among the initializers or in a Constant node."""
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1])
    zero = helper.make_tensor("zero", kind, [], [0])
    nodes = [
        *([helper.make_node("Constant", [], ["zero"], value=zero)] if attribute else []),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    big = onnx.numpy_helper.from_array(np.zeros((300, 300), np.float32), "big")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], [big, scale, *([] if attribute else [zero])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("attribute", [True, False])
@pytest.mark.parametrize(("kind", "told"), [(TensorProto.FLOAT8E4M3FN, True), (TensorProto.INT8, False)])
def test_pairs_of_8_bit_floats_are_seen_wherever_their_types_stand(
    kind: int, told: bool, attribute: bool, tmp_path: Path
) -> None:
    onnx.save(paired(kind, attribute), tmp_path / "m.onnx")
    assert onnx_format.holds_float8(tmp_path / "m.onnx") is told
    kinds, nodes = onnx_glance.pairs(tmp_path / "m.onnx")
    parsed = onnx.load(tmp_path / "m.onnx").graph
    assert kinds == {tensor.data_type for tensor in parsed.initializer}
    assert [onnx.NodeProto.FromString(node) for node in nodes] == list(parsed.node)


def test_a_graph_without_pairs_is_not_looked_into(tmp_path: Path) -> None:
    onnx.save(lab.convnet(), tmp_path / "m.onnx")
    assert onnx_glance.pairs(tmp_path / "m.onnx") == (set(), [])


def test_damaged_files_are_no_models_and_hold_nothing(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    onnx.save(paired(TensorProto.FLOAT8E4M3FN, False), file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match="no protobuf message"):
        onnx_glance.pairs(file)
    for content in (b"", b"\xff" * 40, file.read_bytes()):
        file.write_bytes(content)
        assert not onnx_format.holds_float8(file)
    assert not onnx_format.holds_float8(tmp_path / "missing.onnx")
