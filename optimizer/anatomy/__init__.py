"""What a model is made of: inputs and outputs, operators, parameters, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from optimizer.anatomy.parts import Anatomy
from optimizer.errors import OptimizerError

__all__ = ["Anatomy", "artifact"]


def artifact(path: Path, dims: Mapping[str, int]) -> Anatomy:
    """The anatomy of the artifact in a directory; raises OptimizerError when there is none."""
    if (path / "model.onnx").is_file():
        from optimizer.anatomy import onnx

        return onnx.dissect(path / "model.onnx", dims)
    if (path / "model.plan").is_file():
        from optimizer.anatomy import tensorrt

        return tensorrt.dissect(path, dims)
    if (path / "model.xml").is_file():
        from optimizer.anatomy import openvino

        return openvino.dissect(path, dims)
    if (path / "module.json").is_file():
        from optimizer.anatomy import torch

        return torch.dissect(path, dims)
    names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise OptimizerError(
        f"{path} holds no model; found: {names}",
        "a model folder has model.onnx, model.xml, model.plan, module.json or config.json",
    )
