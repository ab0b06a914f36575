"""What a model is made of: inputs and outputs, operators, parameters, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optimizer.errors import OptimizerError, unknown
from optimizer.values import Signature

__all__ = ["Anatomy", "artifact", "sized"]


@dataclass(frozen=True)
class Anatomy:
    """A model taken apart."""

    kind: str  # "ONNX", "OpenVINO IR", "PyTorch"
    signature: Signature
    parameters: Mapping[str, int]  # dtype -> number of stored values
    operators: Mapping[str, int]  # type -> how many, the most frequent first
    macs: int | None  # of one run at `sizes`; None when they could not be counted
    sizes: Mapping[str, int] = field(default_factory=dict)  # free dimension -> size that the count is for
    uncounted: tuple[str, ...] = ()  # operators that multiply and whose shapes are not known
    facts: Mapping[str, Any] = field(default_factory=dict)  # what else the file says about itself

    @property
    def values(self) -> int:
        """All stored values together."""
        return sum(self.parameters.values())


def artifact(path: Path, dims: Mapping[str, int]) -> Anatomy:
    """The anatomy of the artifact in a directory; raises OptimizerError when there is none."""
    if (path / "model.onnx").is_file():
        from optimizer.anatomy import onnx

        return onnx.dissect(path / "model.onnx", dims)
    if (path / "model.xml").is_file():
        from optimizer.anatomy import openvino

        return openvino.dissect(path, dims)
    if (path / "module.json").is_file():
        from optimizer.anatomy import torch

        return torch.dissect(path, dims)
    names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise OptimizerError(
        f"{path} holds no model; found: {names}", "a model folder has model.onnx, model.xml, module.json or config.json"
    )


def sized(signature: Signature, dims: Mapping[str, int], start: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for every free dimension: as asked, else as in `start`, else 1.

    Raises OptimizerError for a dimension that the model does not have.
    """
    known = signature.symbols()
    for name in dims:
        if name not in known:
            raise unknown("dimension", name, known, "the model's inputs")
    return {name: dims.get(name, (start or {}).get(name, 1)) for name in known}
