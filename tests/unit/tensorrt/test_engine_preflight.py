"""What a model's nodes would be refused for, without a build; what an engine holds; both by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import quant_lab as lab
from engine_lab import ADA, H100, NEEDED, Built, machine_with, node_model, pair
from onnx import helper

from optimizer import anatomy, cli, machine
from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt import facts, layers, network, pairs
from optimizer.targets import tensorrt_rtx as rtx

LINES = """Layers:
Name: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ { Name: x, Location: Device, Dimensions: [1,3,8,8], Format/Datatype: Int8 }], Outputs: [ { Name: r, Location: Device, Dimensions: [1,8,8,8], Format/Datatype: Half }], ParameterType: Convolution, TacticName: sm80_xmma, StreamId: 0, Metadata: [ONNX Layer: conv1]\x1e[ONNX Layer: relu1]
Name: Reformatting CopyNode for Input Tensor 0 to head, LayerType: Reformat, Inputs: [ { Name: r, Location: Device, Dimensions: [1,8], Format/Datatype: Half }], Outputs: [ { Name: s, Location: Device, Dimensions: [1,8], Format/Datatype: Row major linear FP32 }], TacticValue: 0x0, StreamId: 0, Metadata:
Name: head, LayerType: MatrixMultiply, Inputs: [ { Name: s, Dimensions: [1,8], Format/Datatype: Float }], Outputs: [ { Name: y, Dimensions: [1,4], Format/Datatype: Float }], TacticName: gemm, StreamId: 0, Metadata: [ONNX Layer: head]
Name: head [profile 1], LayerType: MatrixMultiply, Inputs: [ { Name: s, Datatype: Float }], Outputs: [ { Name: y, Datatype: Float }], Metadata: [ONNX Layer: head]

Bindings:
x
"""  # noqa: E501  # as TensorRT 10 writes them, one layer to a line


def test_layers_are_read_from_the_lines_of_plain_tensorrt_too() -> None:
    found = layers.parse(LINES)
    assert [(x.kind, x.inputs, x.outputs, x.reformat, x.product) for x in found] == [
        ("CaskConvolution", ("int8",), ("float16",), False, True),
        ("Reformat", ("float16",), ("float32",), True, False),
        ("MatrixMultiply", ("float32",), ("float32",), False, True),
    ]
    assert found[0].nodes == ("conv1", "relu1")
    assert layers.counts(found) == {"int8": 1, "float32": 1}
    assert layers.describe(found) == "int8 (1 of 2 convolutions and matrix products), float32 elsewhere"


@pytest.mark.parametrize(
    ("name", "kind", "product"),
    [
        ("_gemm_mha_v2_myl0_7", "kgen", True),
        ("__myl_FcAddMulErfAddMulMul_myl0_15", "runtime_fusion", True),
        ("__myl_AddReshTran_myl0_3", "kgen", False),
        ("__myl_MoveReplConc_myl0_4", "kgen", False),
        ("node_MatMul_122_myl0_8", "gemm", True),
    ],
)
def test_products_inside_generated_kernels_count(name: str, kind: str, product: bool) -> None:
    (found,) = layers.parse(f"Layers:\nName: {name}, LayerType: {kind}, Inputs: [ {{ Name: x, Datatype: Half }}]")
    assert (found.product, found.dtype) == (product, "float16")


def test_an_engine_without_details_has_names_and_nothing_is_made_up() -> None:
    found = layers.parse("Layers:\nconv1 + relu1\nhead\n\nBindings:\nx")
    assert [x.name for x in found] == ["conv1 + relu1", "head"]
    assert layers.describe(found) == ""
    assert layers.parse("") == []


def reasons(model: Any) -> list[str]:
    return [str(found) for found in pairs.refused(model)]


def test_each_fault_of_a_pair_is_told_once_with_its_node() -> None:
    assert reasons(pair()) == []
    assert reasons(pair(zero=3)) == ["QuantizeLinear 'quantize': its zero point is 3, it has to be zero"]
    assert reasons(pair(kind=np.uint8)) == [
        "QuantizeLinear 'quantize': it is of type uint8, which would be read as int8 and cut off above 127"
    ]
    bare = pair()
    for node in bare.graph.node:
        del node.input[2]
    assert "of type uint8" in reasons(bare)[0]
    moving = pair()
    moving.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["scale_of_x"], name="max", keepdims=0))
    for node in moving.graph.node[1:]:
        node.input[1] = "scale_of_x"
    assert reasons(moving) == [
        "QuantizeLinear 'quantize': its scale 'scale_of_x' is computed in the graph, it has to be a constant"
    ]


def test_a_pair_on_one_side_only_is_told_as_slow(tmp_path: Path) -> None:
    model = lab.Bench(tmp_path).static(lab.artifact(lab.convnet(), tmp_path / "m"), rtx.SCHEME)
    graph = onnx.load(model.path / "model.onnx")
    assert pairs.unused(graph) == []
    conv = next(node for node in graph.graph.node if node.name == "node_conv1")
    conv.input[0], conv.name = "image", ""
    assert [str(x) for x in pairs.unused(graph)] == [
        f"Conv '{conv.output[0]}': only its weight comes from a Q/DQ pair, so it is computed in float"
    ]


def test_a_refused_node_without_a_name_is_told_by_what_it_is() -> None:
    assert str(network.Refusal("", "MyOp", "not known")) == "MyOp: not known"
    assert str(network.Refusal("", "", "too new")) == "the model: too new"


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def saved(model: Any) -> str:
        onnx.save(model, tmp_path / "model.onnx")
        return str(tmp_path / "model.onnx")

    return saved


@NEEDED
def test_unknown_operators_are_listed_all_at_once(file: Any, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["d"], name="first"),
        helper.make_node("Relu", ["d"], ["r"], name="fine"),
        helper.make_node("Unique", ["r"], ["y"], name="second"),
    ]
    path = file(lab.model(nodes, {"x": ["n", 4, 4]}, {"y": ["k"]}, []))
    assert cli.main(["inspect", "--target", "tensorrt-rtx", path]) == 2
    text = capsys.readouterr().out
    assert "refused     Det 'first': there is no such operator" in text
    assert "refused     Unique 'second': there is no such operator" in text
    assert "fine" not in text
    assert "next        write the model without it" in text


@NEEDED
def test_a_model_that_is_taken_and_one_that_is_none(
    file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = file(lab.convnet())
    assert cli.main(["inspect", "--target", "tensorrt-rtx", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == []
    assert cli.main(["inspect", "--target", "tensorrt-rtx", str(tmp_path)]) == 0
    (tmp_path / "model.onnx").write_bytes(b"none")
    assert cli.main(["inspect", "--target", "tensorrt-rtx", path]) == 2
    assert cli.main(["inspect", "--target", "openvino", path]) == 2
    told = capsys.readouterr().err
    assert "has no check of its own; available: tensorrt, tensorrt-rtx" in told


@NEEDED
def test_an_opset_that_is_too_new_is_refused(file: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = node_model("Relu", {"x": ["n", 4]}, {"y": ["n", 4]})
    model.opset_import[0].version = 99
    assert cli.main(["inspect", "--target", "tensorrt-rtx", file(model)]) == 2
    told = capsys.readouterr().out
    assert "refused     the model: its opset 99 is newer than" in told
    assert "next        export with an older opset" in told
    with pytest.raises(OptimizerError, match="would refuse or misread the model: the model: its opset 99"):
        Built(tmp_path)(model)


@NEEDED
def test_inspect_shows_the_layers_of_an_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = Built(tmp_path)
    source = lab.Bench(tmp_path).static(built.artifact(lab.convnet()), rtx.SCHEME)
    found = built(source, batches=(8,))
    assert cli.main(["inspect", str(found.path)]) == 0
    text = capsys.readouterr().out
    assert "TensorRT-RTX engine" in text
    assert "compute capability 8.0, 8.6, 8.9, 12.0 and newer" in text
    assert "node_conv2" in text
    assert cli.main(["inspect", str(found.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["reads"] for row in document["layers"]} >= {"int8", "float32"}
    assert document["macs"] > 0
    assert cli.main(["inspect", "--target", "tensorrt-rtx", str(found.path)]) == 0


@NEEDED
def test_inspect_says_whether_an_engine_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Built(tmp_path)(lab.convnet(), batches=(8,))

    def here() -> str:
        return str(anatomy.artifact(found.path, {}).facts["runs here"])

    machine_with(monkeypatch, reason="this machine has no NVIDIA driver; install one")
    assert here() == "no: TensorRT-RTX runs on an NVIDIA GPU: this machine has no NVIDIA driver; install one"
    machine_with(monkeypatch, H100)
    assert "built for compute capability 8.0, 8.6, 8.9, 12.0 and newer, NVIDIA H100 has 9.0; build it for" in here()
    versions = machine.version_of
    monkeypatch.setattr(machine, "version_of", lambda name: "13.0" if name == "cuda-bindings" else versions(name))
    machine_with(monkeypatch, ADA)
    assert here() == "yes"
    told = facts.load(found.path)
    facts.save(told.model_copy(update={"version": "1.5.0.1"}), found.path)
    assert here().startswith(f"no: it was built by TensorRT-RTX 1.5.0.1, {told.version} is installed; build it for")
