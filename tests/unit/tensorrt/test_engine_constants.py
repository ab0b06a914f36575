"""Constants that an engine would hold otherwise than the model means them, and those that look so and are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import quant_lab as lab
from engine_lab import NEEDED, Built, node_model, pair
from onnx import TensorProto, helper

from optimizer import cli
from optimizer.formats.tensorrt import constants

FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
FAR, LAST = 2**40, 2**63 - 1


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def cast(values: np.ndarray, kind: int, out: int = FLOAT) -> Any:
    """A constant that is cast, and added."""
    nodes = [
        helper.make_node("Cast", ["c"], ["d"], name="the_cast", to=kind),
        helper.make_node("Add", ["x", "d"], ["y"], name="the_add"),
    ]
    return lab.model(nodes, {"x": [4]}, {"y": [4]}, lab.weights(c=values), kinds={"x": out, "y": out})


RIGHT: dict[str, Any] = {
    "sum": node_model("Add", {"x": [4]}, {"y": [4]}, INT64, c=whole(FAR)),
    "end": node_model("Slice", {"x": [8, 4]}, {"y": [7, 4]}, s=whole(1), e=whole(LAST), a=whole(0)),
    "backwards": node_model(
        "Slice", {"x": [8, 4]}, {"y": [8, 4]}, s=whole(-1), e=whole(-LAST - 1), a=whole(0), t=whole(-1)
    ),
    "last": node_model("Gather", {"x": [8, 4]}, {"y": [2, 4]}, i=whole(7, -8)),
    "free": node_model("Gather", {"x": ["n", 4]}, {"y": [2, 4]}, i=whole(7, 100)),
    "tuple": node_model("GatherND", {"x": [8, 4]}, {"y": [2]}, i=whole(7, 3, -8, -4).reshape(2, 2)),
    "double": cast(np.array([1e-12, -np.inf]), FLOAT),
    "fits": cast(whole(2**31 - 1), INT32, INT32),
}
WRONG: dict[str, tuple[Any, str]] = {
    "after": (
        node_model("Gather", {"x": [8, 4]}, {"y": [2, 4]}, i=whole(1, 8)),
        "Gather 'the_gather': its index 8 lies outside axis 0 of 'x', which has 8; TensorRT does not check it",
    ),
    "before": (
        node_model("GatherElements", {"x": [8, 4]}, {"y": [1, 4]}, i=whole(0, 0, -9, 0).reshape(1, 4)),
        "GatherElements 'the_gatherelements': its index -9 lies outside axis 0 of 'x', which has 8; TensorRT does not "
        "check it",
    ),
    "free": (
        node_model("Gather", {"x": ["n", 4]}, {"y": [2, 4]}, i=whole(7, FAR)),
        "Gather 'the_gather': its index 1099511627776 lies outside any axis; TensorRT does not check it",
    ),
    "tuple": (
        node_model("GatherND", {"x": [8, 4]}, {"y": [2]}, i=whole(7, 3, 7, 4).reshape(2, 2)),
        "GatherND 'the_gathernd': its index 4 lies outside axis 1 of 'x', which has 4; TensorRT does not check it",
    ),
    "scatter": (
        node_model(
            "ScatterElements", {"x": [8, 4]}, {"y": [8, 4]}, i=np.full((1, 4), FAR), u=np.ones((1, 4), "float32")
        ),
        "ScatterElements 'the_scatterelements': its index 1099511627776 lies outside axis 0 of 'x', which has 8; "
        "TensorRT does not check it",
    ),
    "int32": (
        cast(whole(FAR), INT32, INT32),
        "Cast 'the_cast': its constant 'c' holds 1099511627776, which int32 cannot hold",
    ),
    "float64": (
        cast(np.array([1.0, 1e300]), FLOAT),
        "Cast 'the_cast': its constant 'c' holds 1e+300; float64 becomes float32, which ends at 3.4e+38",
    ),
    "uint16": (
        cast(np.array([5], np.uint16), FLOAT),
        "Cast 'the_cast': its constant 'c' is uint16, a type that the parser does not know",
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_spoken_of(name: str) -> None:
    assert constants.refused(RIGHT[name]) == []


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_node(name: str) -> None:
    model, said = WRONG[name]
    assert [str(found) for found in constants.refused(model)] == [said]


def test_constants_that_are_nodes_and_fill_several_readers_are_told_once() -> None:
    inner = onnx.numpy_helper.from_array(whole(9), "value")
    nodes = [
        helper.make_node("Constant", [], ["i"], name="number", value=inner),
        helper.make_node("Gather", ["x", "i"], ["a"], name="first"),
        helper.make_node("Gather", ["x", "i"], ["b"], name="second"),
        helper.make_node("Add", ["a", "b"], ["y"], name="sum"),
    ]
    model = lab.model(nodes, {"x": [8, 4]}, {"y": [1, 4]}, [])
    assert [found.node for found in constants.refused(model)] == ["first"]


def test_numbers_in_another_file_are_not_guessed(tmp_path: Path) -> None:
    model, _ = WRONG["after"]
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert constants.refused(onnx.load(tmp_path / "m.onnx", load_external_data=False)) == []
    assert len(constants.refused(onnx.load(tmp_path / "m.onnx"))) == 1


@NEEDED
@pytest.mark.parametrize("name", ["sum", "end", "backwards", "last", "fits"])
def test_what_is_right_is_built(tmp_path: Path, name: str) -> None:
    Built(tmp_path)(RIGHT[name])


@NEEDED
def test_inspect_reads_constants_from_the_file_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(pair(zero=3), path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert cli.main(["inspect", "--target", "tensorrt-rtx", str(path)]) == 2
    assert "'quantize': its zero point is 3" in "".join(capsys.readouterr())
    (tmp_path / "m.data").unlink()
    assert cli.main(["inspect", "--target", "tensorrt-rtx", str(path)]) == 2
    assert "is not valid ONNX" in "".join(capsys.readouterr())


@NEEDED
def test_inspect_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(WRONG["uint16"][0], tmp_path / "m.onnx")
    assert cli.main(["inspect", "--target", "tensorrt-rtx", str(tmp_path / "m.onnx")]) == 2
    out = "".join(capsys.readouterr())
    assert "the_cast" in out and "is uint16" in out and "importInitializers" not in out
