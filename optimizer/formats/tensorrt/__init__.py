"""The formats `tensorrt` and `tensorrt-rtx`: an engine, its facts, its log, and the ONNX model it came from."""

from __future__ import annotations

from pathlib import Path

from optimizer.formats import onnx as onnx_format
from optimizer.formats.tensorrt import facts
from optimizer.values import Signature

FILE = "model.plan"
SOURCE = "onnx"  # folder with the model that the engine was built from, for another GPU and for the oracle
LOG = "build.log"
LAYERS = "layers.json"


def read(path: Path) -> Signature:
    """The signature of the engine: that of its ONNX model, whose names and types a strongly typed engine keeps.

    Raises OptimizerError when a file is missing, or when the plan is not the one that its facts describe.
    """
    facts.check(path / FILE, facts.load(path))
    return onnx_format.read(path / SOURCE)


def files(path: Path) -> list[Path]:
    """Every file of the artifact in a fixed order."""
    own = [path / name for name in (FILE, facts.FILE, LOG, LAYERS) if (path / name).is_file()]
    return [*own, *onnx_format.files(path / SOURCE)]


def size(path: Path) -> int:
    """Bytes that the runtime needs: the plan alone."""
    return (path / FILE).stat().st_size
