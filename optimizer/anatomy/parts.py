"""The value that taking a model apart gives, whatever its format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optimizer.errors import unknown
from optimizer.values import Signature


@dataclass(frozen=True)
class Layer:
    """One layer of a model that was compiled for a device."""

    name: str
    kind: str
    reads: str  # types
    writes: str
    nodes: tuple[str, ...]  # of the graph that it was compiled from


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
    missing: tuple[str, ...] = ()  # files that hold its weights and are not beside it
    layers: tuple[Layer, ...] = ()  # in the order in which they run, where the file tells them

    @property
    def values(self) -> int:
        """All stored values together."""
        return sum(self.parameters.values())


def sized(signature: Signature, dims: Mapping[str, int], start: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for every free dimension: as asked, else as in `start`, else 1.

    Raises OptimizerError for a dimension that the model does not have.
    """
    known = signature.symbols()
    for name in dims:
        if name not in known:
            raise unknown("dimension", name, known, "the model's inputs")
    return {name: dims.get(name, (start or {}).get(name, 1)) for name in known}
