"""optc inspect: operators, parameters and multiply-accumulates against counts done by hand, and every kind of thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bundle_lab
import models
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from optimizer import anatomy, schema
from optimizer.anatomy import onnx as onnx_anatomy
from optimizer.cli import main
from optimizer.errors import EXIT_OK, EXIT_USAGE, OptimizerError
from optimizer.store import Store

Shape = Sequence[int | str]


def save(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape | None],
    weights: dict[str, Shape],
    kinds: dict[str, type[np.generic]] | None = None,
) -> Path:
    """An ONNX file with weights of these shapes, float32 like its inputs unless `kinds` says otherwise."""

    def kind(name: str) -> Any:
        return (kinds or {}).get(name, np.float32)

    tensors = [numpy_helper.from_array(np.zeros(shape, kind(name)), name) for name, shape in weights.items()]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind(name))), shape) for name, shape in inputs.items()],
        [info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        tensors,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    )
    onnx.save(model, path)
    return path


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


CASES = [
    # 8 output channels, 3 x 3 x 4 values each, on 6 x 6 positions without padding
    (node("Conv", "x w"), {"x": ["n", 4, 8, 8]}, {"w": [8, 4, 3, 3]}, 8 * 6 * 6 * 4 * 3 * 3),
    # depthwise: one channel per group
    (node("Conv", "x w", group=4, pads=[1, 1, 1, 1]), {"x": ["n", 4, 8, 8]}, {"w": [4, 1, 3, 3]}, 4 * 8 * 8 * 9),
    # every one of 4 x 5 x 5 inputs is spread over 6 channels and 2 x 2 positions
    (node("ConvTranspose", "x w", strides=[2, 2]), {"x": ["n", 4, 5, 5]}, {"w": [4, 6, 2, 2]}, 4 * 25 * 6 * 4),
    (node("Gemm", "x w"), {"x": ["n", 10]}, {"w": [10, 7]}, 70),
    (node("Gemm", "x w", transA=1, transB=1), {"x": [10, "n"]}, {"w": [7, 10]}, 70),
    (node("MatMul", "x w"), {"x": ["n", 5, 10]}, {"w": [10, 7]}, 5 * 10 * 7),
    (node("MatMul", "x z"), {"x": ["n", 4, 6, 8], "z": ["n", 4, 8, 6]}, {}, 4 * 6 * 6 * 8),
    (node("Einsum", "x w", equation="nid,de->nie"), {"x": ["n", 5, 10]}, {"w": [10, 7]}, 5 * 10 * 7),
    # 9 steps, 4 gates of width 5, from 3 inputs and 5 states
    (node("LSTM", "x w r", hidden_size=5), {"x": [9, "n", 3]}, {"w": [1, 20, 3], "r": [1, 20, 5]}, 9 * 20 * (3 + 5)),
    (node("GRU", "x w r", hidden_size=5), {"x": [9, "n", 3]}, {"w": [1, 15, 3], "r": [1, 15, 5]}, 9 * 15 * (3 + 5)),
    (node("Relu", "x"), {"x": ["n", 10]}, {}, 0),
]


@pytest.mark.parametrize(
    ("made", "inputs", "weights", "macs"), CASES, ids=[c[0].op_type + str(i) for i, c in enumerate(CASES)]
)
def test_macs_are_those_of_the_definition(
    made: Any, inputs: dict[str, Shape], weights: dict[str, Shape], macs: int, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.onnx", [made], inputs, {"y": None}, weights)
    for batch in (1, 3):
        found = onnx_anatomy.dissect(path, {"n": batch})
        assert found.macs == batch * macs
        assert found.uncounted == ()
    assert found.values == sum(int(np.prod(shape)) for shape in weights.values())
    assert found.operators == {made.op_type: 1}


def test_packed_weights_count_as_what_they_hold(tmp_path: Path) -> None:
    settings = {"bits": 4, "block_size": 32, "domain": "com.microsoft"}
    made = [
        node("GatherBlockQuantized", "table i s1", "h", gather_axis=0, quantize_axis=1, **settings),
        node("MatMulNBits", "h codes s2", "g", K=40, N=6, **settings),
        node("MatMul", "g w"),
    ]
    weights = {"table": [9, 20], "s1": [9, 2], "codes": [6, 2, 16], "s2": [6, 2], "w": [6, 3]}
    kinds: dict[str, type[np.generic]] = {"i": np.int64, "table": np.uint8, "codes": np.uint8}
    path = save(tmp_path / "m.onnx", made, {"i": ["n"]}, {"y": None}, weights, kinds)
    found = onnx_anatomy.dissect(path, {"n": 5})
    assert found.macs == 5 * (40 * 6 + 6 * 3)
    assert found.parameters == {"int4": 9 * 40 + 40 * 6, "float32": 18 + 12 + 18}


def test_an_operator_of_unknown_shape_is_named_not_guessed(tmp_path: Path) -> None:
    made = [node("Mystery", "x", "h", domain="com.microsoft"), node("MatMul", "h w")]
    path = save(tmp_path / "m.onnx", made, {"x": ["n", 4]}, {"y": None}, {"w": [4, 2]})
    found = onnx_anatomy.dissect(path, {})
    assert found.macs is None
    assert found.uncounted == ("1 MatMul",)
    assert found.operators == {"MatMul": 1, "com.microsoft.Mystery": 1}


def test_shapes_are_read_from_external_data_and_what_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(
        tmp_path / "m.onnx",
        [node("Reshape", "x shape", "h"), node("MatMul", "h w")],
        {"x": ["n", 8]},
        {"y": None},
        {"w": [4, 2], "shape": [2]},
        {"shape": np.int64},
    )
    model = onnx.load(path)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array([-1, 4]), "shape"))
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = onnx_anatomy.dissect(path, {"n": 3})
    assert (found.macs, found.missing) == (3 * 2 * 4 * 2, ())
    (tmp_path / "w.bin").unlink()
    found = onnx_anatomy.dissect(path, {"n": 3})
    assert (found.macs, found.missing, found.parameters["float32"]) == (None, ("w.bin",), 8)
    assert main(["inspect", str(path)]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert "missing     w.bin  (holds weights: copy it beside the model)" in lines


def test_dimensions_default_to_one_and_must_exist(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [node("MatMul", "x w")], {"x": ["n", "t", 4]}, {"y": None}, {"w": [4, 2]})
    assert onnx_anatomy.dissect(path, {"t": 5}).macs == 5 * 8
    with pytest.raises(OptimizerError, match=r"unknown dimension 'tt'.*available: n, t"):
        onnx_anatomy.dissect(path, {"tt": 5})


def test_torch_onnx_and_openvino_agree(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(models.__file__).parent)!r})\nfrom models import ConvNet\n"
    )
    view = look(f"{tmp_path}/net.py:ConvNet", "--input", "image=float32[batch,3,16,16]")
    onnx_path = tmp_path / "model.onnx"
    torch.onnx.export(models.ConvNet().eval(), (torch.zeros(1, 3, 16, 16),), onnx_path, dynamo=False, opset_version=17)
    from optimizer.formats import openvino as openvino_format

    openvino_format.save(openvino.convert_model(onnx_path), tmp_path)
    exported = anatomy.onnx.dissect(onnx_path, {})  # type: ignore[attr-defined]  # imported above
    (tmp_path / "ir").mkdir()
    for name in ("model.xml", "model.bin"):
        (tmp_path / name).rename(tmp_path / "ir" / name)
    intermediate = anatomy.artifact(tmp_path / "ir", {})
    by_hand = 16 * 16 * 8 * 27 + 8 * 8 * 16 * 72 + 16 * 4
    assert view["macs"] == exported.macs == intermediate.macs == by_hand
    assert intermediate.operators["Convolution"] == exported.operators["Conv"] == view["operators"]["Conv2d"] == 2


def look(*arguments: str) -> dict[str, Any]:
    """`optc inspect --json`."""
    import contextlib
    import io

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["inspect", *arguments, "--json"]) == EXIT_OK
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def test_a_module_without_stated_inputs_is_guessed(tmp_path: Path) -> None:
    folder = str(Path(models.__file__).parent)
    (tmp_path / "net.py").write_text(
        f"import sys\nsys.path.insert(0, {folder!r})\nfrom models import ConvNet, TwoInputs\n"
    )
    found = look(f"{tmp_path}/net.py:ConvNet")
    assert found["signature"]["inputs"][0] == {"name": "image", "dtype": "float32", "shape": ["batch", 3, 32, 32]}
    assert found["parameters"] == {"float32": sum(p.numel() for p in models.ConvNet().parameters())}
    found = look(f"{tmp_path}/net.py:TwoInputs")
    assert [(t["name"], t["shape"]) for t in found["signature"]["inputs"]] == [
        ("left", ["batch", 4]),
        ("right", ["batch", 3]),
    ]


def test_attention_is_counted(tmp_path: Path) -> None:
    folder = str(Path(models.__file__).parent)
    (tmp_path / "net.py").write_text(f"import sys\nsys.path.insert(0, {folder!r})\nfrom models import TokenEncoder\n")
    texts = ["--input", "input_ids=int64[batch,sequence]", "--input", "attention_mask=int64[batch,sequence]"]
    one = look(f"{tmp_path}/net.py:TokenEncoder", *texts, "--dim", "sequence=8")["macs"]
    two = look(f"{tmp_path}/net.py:TokenEncoder", *texts, "--dim", "sequence=16")["macs"]
    assert two > 2 * one, "the scores grow with the square of the length"


def test_text_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle_lab.write_model(tmp_path)
    assert main(["inspect", str(tmp_path / "model.onnx")]) == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert "input       float32[batch,4]                 image" in lines
    assert "output      float32[batch,3]                 logits" in lines
    assert "parameters  15  (15 float32)" in lines
    assert "MACs        12  at batch 1" in lines
    assert main(["inspect", str(tmp_path)]) == EXIT_OK, "the folder of an artifact"
    assert capsys.readouterr().out.splitlines() == lines


def test_bundle_run_recipe_and_stored_entries(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    folder, archive = bundle_lab.packed(tmp_path / "b")
    for place in (folder, archive):
        assert look(str(place))["variant"] == "fp32"
        assert main(["inspect", str(place)]) == EXIT_OK
        assert "candidate   fp32@onnxruntime of tiny" in capsys.readouterr().out
    made = bundle_lab.artifact(tmp_path / "model")
    (tmp_path / "run.json").write_bytes(schema.dump_run(bundle_lab.run(made)))
    assert look(str(tmp_path / "run.json"))["what"] == "run"
    assert look(str(tmp_path))["name"] == "tiny"
    assert look("vision/digits-int8")["variants"]["int8"] == [{"name": "quantize.static", "options": {}}]
    with store.stage("ab" * 32) as staged:
        bundle_lab.write_model(staged)
        store.commit(staged, "ab" * 32, {"use": "export", "format": "onnx"})
    with store.stage("cd" * 32) as staged:
        (staged / "rows.npz").write_bytes(b"x")
        store.commit(staged, "cd" * 32, {"use": "evaluate", "format": "rows"})
    assert look("abababab")["macs"] == 12
    assert look("cdcdcdcd") | {"path": ""} == {
        "what": "entry", "key": "cd" * 32, "use": "evaluate", "format": "rows", "files": {"rows.npz": 1}, "path": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' is no folder, no stored key and no shipped recipe"),
        (["missing.onnx"], "no such model file: missing.onnx"),
        (["missing.tar.gz"], "no such bundle"),
        (["missing.json"], "no such run record"),
        (["missing.yaml"], "no such recipe file"),
        (["missing.py:Net"], "no such file"),
        (["0123456789ab"], "no stored artifact has a key that begins with"),
        (["net.py"], "next: name the callable: net.py:Net"),
        (["data.npz"], "'data.npz' is a file of no kind that can be inspected"),
        (["x.onnx", "--dim", "batch"], "--dim batch: cannot be read"),
        (["x.onnx", "--dim", "batch=0"], "a size is a positive integer"),
    ],
)
def test_what_cannot_be_shown(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("net.py", "data.npz"):
        (tmp_path / name).touch()
    assert main(["inspect", *arguments]) == EXIT_USAGE
    assert message in capsys.readouterr().err


def test_files_that_are_not_what_they_seem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage")
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name in ("bad.onnx", "run.json", "empty"):
        assert main(["inspect", str(tmp_path / name)]) == EXIT_USAGE, name
        assert "error: " in capsys.readouterr().err
