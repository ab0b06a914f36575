"""The artifact formats: what is in a directory is looked at, not believed.

Each format is a module with `read(path) -> Signature` and `files(path) -> list[Path]`.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

from optimizer import disk
from optimizer.values import Signature

FORMATS = {
    "torch": "optimizer.formats.torch",
    "onnx": "optimizer.formats.onnx",
    "openvino": "optimizer.formats.openvino",
    "tensorrt": "optimizer.formats.tensorrt",
    "tensorrt-rtx": "optimizer.formats.tensorrt",
}


def read(format: str, path: Path) -> Signature:
    """The signature of the artifact in the directory `path`, taken from its files.

    Raises OptimizerError when a file is missing, or when the model is not structurally valid.
    """
    found: Signature = _module(format).read(path)
    return found


def size(format: str, path: Path) -> int:
    """Bytes that the runtime needs of the artifact in the directory `path`."""
    module = _module(format)
    if hasattr(module, "size"):
        return int(module.size(path))
    return sum(file.stat().st_size for file in module.files(path))


def hand_on(format: str, path: Path, out: Path) -> None:
    """Put the artifact's files into `out` unchanged: links where that is allowed, else copies."""
    for file in _module(format).files(path):
        if not file.is_relative_to(path):
            continue  # the user's, which the artifact refers to
        to = out / file.relative_to(path)
        if format == "onnx" and file.name != "model.onnx":  # onnx.checker refuses linked external data as an attack
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
        else:
            disk.link_or_copy(file, to)


def _module(format: str) -> Any:
    if format not in FORMATS:
        raise AssertionError(f"BUG: no artifact format '{format}'")
    return importlib.import_module(FORMATS[format])
