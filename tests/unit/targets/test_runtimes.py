"""The targets onnxruntime and openvino: files, sessions, precision, refusals."""

from __future__ import annotations

import ctypes
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import helper
from quant_lab import INT64, artifact, attention, convnet, error, images, lowered, model, opened, outputs, tokens

from optimizer import machine, schema
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.protocols import Context
from optimizer.targets import onnxruntime as ort_target
from optimizer.targets import openvino as openvino_target
from optimizer.values import Artifact

TARGETS = pytest.mark.parametrize("target", [ort_target, openvino_target], ids=["onnxruntime", "openvino"])


def compiled(target: Any, source: Artifact, out: Path) -> Artifact:
    out.mkdir()
    target.run(source, target.Options(), Context(), out)
    return opened(target.PRODUCES, out, source.signature)


@TARGETS
@pytest.mark.parametrize("built", [convnet(), attention(mask=-1e4)], ids=["convnet", "attention"])
def test_outputs_equal_the_oracle_within_the_stated_limit(target: Any, built: Any, tmp_path: Path) -> None:
    source = artifact(built, tmp_path / "m")
    found = compiled(target, source, tmp_path / "out")
    feeds = images(3).feeds if "image" in source.signature.inputs[0].name else tokens(3).feeds
    reference = onnx.reference.ReferenceEvaluator(built).run(None, feeds)
    expected = {spec.name: array for spec, array in zip(source.signature.outputs, reference, strict=True)}
    assert error(expected, outputs(found, feeds)) <= target.LIMIT


@TARGETS
def test_an_output_is_not_overwritten_by_the_next_call(target: Any, tmp_path: Path) -> None:
    found = compiled(target, artifact(convnet(), tmp_path / "m"), tmp_path / "out")
    with target.open(found, target.Options(threads=1)) as session:
        first = session(images(2, seed=1).feeds)["logits"]
        before = first.copy()
        second = session(images(2, seed=2).feeds)["logits"]
        larger = session(images(5, seed=2).feeds)["logits"]
    assert np.array_equal(first, before) and not np.array_equal(first, second) and larger.shape == (5, 4)
    assert first.flags.owndata or first.base is not None


@TARGETS
def test_the_precision_can_be_asked_before_and_after_the_first_call(target: Any, tmp_path: Path) -> None:
    found = compiled(target, artifact(convnet(), tmp_path / "m"), tmp_path / "out")
    for calls in (0, 3):
        with target.open(found, target.Options(threads=1)) as session:
            for _ in range(calls):
                session(images(2).feeds)
            assert session.precision == "float32" == session.precision


@TARGETS
def test_wrong_inputs_are_the_callers_matter(target: Any, tmp_path: Path) -> None:
    found = compiled(target, artifact(convnet(), tmp_path / "m"), tmp_path / "out")
    with target.open(found, target.Options()) as session:
        with pytest.raises(OptimizerError, match=r"refuses the inputs image float32\[2, 5, 8, 8\]") as raised:
            session({"image": np.zeros((2, 5, 8, 8), dtype="float32")})
        assert "image: float32[batch,3,8,8]" in str(raised.value.hint)
        with pytest.raises(OptimizerError, match="refuses the inputs picture"):
            session({"picture": np.zeros((2, 3, 8, 8), dtype="float32")})


@TARGETS
def test_options_are_strict_and_threads_are_left_to_the_planner(target: Any) -> None:
    assert target.Options().threads is None
    with pytest.raises(OptimizerError, match="did you mean 'threads'"):
        schema.parse(target.Options, {"thread": 2}, "target")
    with pytest.raises(OptimizerError, match="greater than or equal to 1"):
        schema.parse(target.Options, {"threads": 0}, "target")


def test_onnx_is_handed_on_by_link_with_its_external_data(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    onnx.save(
        convnet(), folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0
    )
    source = opened("onnx", folder, onnx_format.read(folder))
    found = compiled(ort_target, source, tmp_path / "out")
    assert sorted(p.name for p in found.path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (found.path / "model.onnx").stat().st_ino == (folder / "model.onnx").stat().st_ino
    assert outputs(found, images(1).feeds)["logits"].shape == (1, 4)


def test_ir_is_handed_on_with_its_settings(tmp_path: Path) -> None:
    source = lowered(artifact(convnet(), tmp_path / "m"), tmp_path / "ir")
    (source.path / "runtime.json").write_text('{"precision": "bf16"}')
    found = compiled(openvino_target, source, tmp_path / "out")
    assert [f.name for f in openvino_format.files(found.path)] == ["model.xml", "model.bin", "runtime.json"]
    assert openvino_format.precision(found.path) == "bf16"
    assert (found.path / "model.bin").stat().st_ino == (source.path / "model.bin").stat().st_ino


def test_openvino_runs_float32_unless_asked_otherwise(tmp_path: Path) -> None:
    found = lowered(artifact(convnet(), tmp_path / "m"), tmp_path / "ir")
    with openvino_target.open(found, openvino_target.Options()) as session:
        assert session.precision == "float32"
    if "BF16" in openvino_format.library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with openvino_target.open(found, openvino_target.Options(precision="bf16")) as session:
            assert session.precision == "bfloat16"


def test_openvino_compiles_the_first_shapes_alone_and_runs_all_others_in_the_model_for_all(tmp_path: Path) -> None:
    found = lowered(artifact(convnet(), tmp_path / "m"), tmp_path / "ir")
    with (
        openvino_target.open(found, openvino_target.Options(threads=1)) as plain,
        openvino_target.open(found, openvino_target.Options(threads=1, static_shapes=2)) as session,
    ):
        for count in (3, 1, 2, 3):
            feeds = images(count, seed=count).feeds
            assert error(plain(feeds), session(feeds)) < 1e-6
            assert error(plain(feeds), session.fork()(feeds)) < 1e-6
        shapes = session._shapes
        assert [key[0][1][0] for key in shapes._own] == [3, 1]
        assert all(model is not shapes.common for model in shapes._own.values())
        with pytest.raises(OptimizerError, match="refuses the inputs"):
            session({"image": np.zeros((1, 1, 1), np.float32)})


def test_ir_names_inputs_and_outputs_as_the_signature_does(tmp_path: Path) -> None:
    built = model(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Identity", ["a"], ["b"]),
            helper.make_node("Identity", ["x"], ["c"]),
            helper.make_node("Cast", ["ids"], ["d"], to=1),
        ],
        {"x": ["n", 4], "ids": ["n", "length"]},
        {"b": ["n", 4], "a": ["n", 4], "c": ["n", 4], "d": ["n", "length"]},
        [],
        kinds={"ids": INT64},
    )
    source = artifact(built, tmp_path / "m")
    found = lowered(source, tmp_path / "ir")
    signature = openvino_format.read(found.path)
    assert [s.name for s in signature.inputs] == ["x", "ids"]
    assert [s.name for s in signature.outputs] == ["b", "a", "c", "d"]
    assert [s.dtype for s in signature.inputs] == ["float32", "int64"]
    assert signature.inputs[1].shape == ("ids_0", "ids_1")
    feeds = {"x": np.array([[-1, 2, -3, 4]], dtype="float32"), "ids": np.array([[7, 8, 9]])}
    result = outputs(found, feeds)
    assert result["a"].tolist() == result["b"].tolist() == [[0, 2, 0, 4]]
    assert result["c"].tolist() == feeds["x"].tolist() and result["d"].tolist() == [[7, 8, 9]]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncate model.xml", "is no OpenVINO model"),
        ("truncate model.bin", "is no OpenVINO model"),
        ("remove model.bin", "no such model file"),
        ("remove model.xml", "no such model file"),
        ("json {", "is not JSON"),
        ('json {"precision": "int3"}', "names no precision that is known"),
    ],
)
def test_damaged_ir_is_refused(damage: str, message: str, tmp_path: Path) -> None:
    found = lowered(artifact(convnet(), tmp_path / "m"), tmp_path / "ir")
    what, _, name = damage.partition(" ")
    if what == "json":
        (found.path / "runtime.json").write_text(name)
    elif what == "remove":
        (found.path / name).unlink()
    else:
        data = (found.path / name).read_bytes()
        (found.path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(OptimizerError, match=message):
        openvino_format.read(found.path)


def test_what_openvino_cannot_convert_is_its_limit_not_a_bug(tmp_path: Path) -> None:
    built = convnet()
    built.graph.node[0].op_type, built.graph.node[0].domain = "Nonsense", "nowhere"
    built.opset_import.append(helper.make_opsetid("nowhere", 1))
    source = artifact(convnet(), tmp_path / "m")
    onnx.save(built, source.path / "model.onnx")
    with pytest.raises(OptimizerError, match=r"OpenVINO .* cannot convert the model: .*Nonsense"):
        lowered(source, tmp_path / "ir")


@pytest.mark.parametrize(
    ("installed", "target", "reason"),
    [
        ({"onnxruntime"}, ort_target, None),
        ({"onnxruntime-gpu"}, ort_target, None),
        (set(), ort_target, "pip install onnxruntime"),
        ({"onnxruntime", "onnxruntime-gpu"}, ort_target, "overwrite each other's files"),
        ({"openvino"}, openvino_target, None),
        (set(), openvino_target, r"pip install 'optc\[openvino\]'"),
    ],
)
def test_probe_reads_metadata_only(
    installed: set[str], target: Any, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "exactly", lambda name: "1.0" if name in installed else None)
    found = target.probe()
    assert found is None if reason is None else reason.replace("\\", "") in str(found)


def test_precision_in_words() -> None:
    def kernel(index: int, op: str, kind: str = "float") -> dict[str, Any]:
        shapes = [{kind: [1, 2]}]
        return {
            "name": f"{op}_kernel_time",
            "args": {"node_index": str(index), "op_name": op, "input_type_shape": shapes},
        }

    events = [kernel(0, "QLinearConv", "uint8"), kernel(0, "QLinearConv", "uint8"), kernel(1, "Conv"), {"name": "x"}]
    assert ort_target.describe(events) == "int8 (1 of 2 convolutions and matrix products), float32 elsewhere"
    assert ort_target.describe([kernel(0, "Conv", "float16")]) == "float16"
    mixed = [kernel(0, "Conv", "float16"), kernel(1, "Conv", "float16"), kernel(2, "Gemm")]
    assert ort_target.describe(mixed) == "float16 (2 of 3 convolutions and matrix products)"
    assert ort_target.describe([]) == "float32"
    alone = [kernel(0, "MatMulNBits"), kernel(1, "MatMulNBits"), kernel(2, "MatMul")]
    words = "int4 weights (2 of 3 convolutions and matrix products), float32 elsewhere"
    assert ort_target.describe(alone, {"MatMulNBits": 4}) == words
    assert ort_target.describe(alone[:1], {"MatMulNBits": 8}).startswith("int8 weights (1 of 1 ")
    both = [*alone, kernel(3, "QLinearConv")]
    assert ", int8 (1), float32 elsewhere" in ort_target.describe(both, {"MatMulNBits": 4})
    compressed = openvino_target.Counter({"u4 weights": 1, "i4 weights": 1, "f32": 1})
    assert openvino_target.describe(compressed, "f32") == words
    counts = openvino_target.Counter({"i8": 2, "f32": 1})
    assert openvino_target.describe(counts, "f32").startswith("int8 (2 of 3")
    assert openvino_target.describe(openvino_target.Counter(), "bf16") == "bfloat16"


def test_schemes_name_their_target_and_format() -> None:
    for target, name in ((ort_target, "onnxruntime"), (openvino_target, "openvino")):
        assert target.SCHEME.target == name and target.SCHEME.format == target.PRODUCES
        assert dataclasses.asdict(target.SCHEME)["half"]


@TARGETS
def test_an_input_may_be_a_view(target: Any, tmp_path: Path) -> None:
    found = compiled(target, artifact(convnet(), tmp_path / "m"), tmp_path / "out")
    straight = images(4).feeds["image"]
    turned = np.ascontiguousarray(straight.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not turned.flags.c_contiguous
    assert np.array_equal(outputs(found, {"image": turned})["logits"], outputs(found, {"image": straight})["logits"])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the signal stack of Linux")
def test_openvino_leaves_the_stack_of_signal_handlers_alone(tmp_path: Path) -> None:
    """The one that it sets up goes away with its model; ^C then was a segmentation fault."""

    def stack() -> bytes:
        found = ctypes.create_string_buffer(24)
        ctypes.CDLL(None).sigaltstack(None, found)
        return found.raw

    made = compiled(openvino_target, artifact(convnet(), tmp_path / "m"), tmp_path / "out")
    before = stack()
    with openvino_target.open(made, openvino_target.Options(threads=1)) as session:
        session(images(2).feeds)
        assert session.precision
        assert stack() == before
    assert stack() == before
