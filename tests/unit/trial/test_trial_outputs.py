"""Every artifact is run once on the same inputs, in a process of its own, before anything is timed."""

from __future__ import annotations

import shutil
from pathlib import Path

import bundle_lab
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimizer.console import Console
from optimizer.store import Store
from optimizer.subjects import Asked, Opened, open_all
from optimizer.trial.outputs import look

FEEDS = {"image": np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, itself again, itself with other outputs, with NaN, with one output renamed, and a broken file."""
    folder = tmp_path_factory.mktemp("models")
    bundle_lab.write_model(folder)
    base = onnx.load(folder / "model.onnx")
    for name in ("same", "other", "nan", "renamed"):
        model = onnx.ModelProto()
        model.CopyFrom(base)
        bias = next(t for t in model.graph.initializer if t.name == "b")
        value = {"other": np.array([9, -90, 30]), "nan": np.array([np.nan, 0, 0])}.get(name)
        if value is not None:
            bias.CopyFrom(numpy_helper.from_array(value.astype(np.float32), "b"))
        if name == "renamed":
            model.graph.node[1].output[0] = model.graph.output[0].name = "scores"
        onnx.save(model, folder / f"{name}.onnx")
    return folder


@pytest.fixture
def opened(files: Path, tmp_path: Path, store: Store) -> list[Opened]:
    names = ("model", "same", "other", "nan", "renamed")
    (tmp_path / "temporary").mkdir()
    found = open_all(
        [str(files / f"{n}.onnx") for n in names], Asked(), store, tmp_path / "temporary", Console(level=0)
    )
    shutil.rmtree(found[1].subject.artifact.path)  # its session will die
    return found


def test_nan_is_refused_death_is_named_and_strangers_are_told(opened: list[Opened]) -> None:
    found = look(opened, "model@onnxruntime", FEEDS, 2, 1)
    assert [o.variant for o in found.alive] == ["model", "other", "renamed"]
    assert "holds NaN" in found.failed["nan@onnxruntime"].message
    assert "'same@onnxruntime'" in found.failed["same@onnxruntime"].message
    [warning] = found.warnings
    assert warning.startswith("the outputs of other@onnxruntime differ from those of model@onnxruntime by")
    assert "may not be the same model" in warning
    assert found.precision == dict.fromkeys(
        ("model@onnxruntime", "other@onnxruntime", "renamed@onnxruntime"), "float32"
    )
