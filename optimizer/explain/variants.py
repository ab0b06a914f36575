"""What a search over variants needs: which layers there are, and a session for any choice of those left in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optimizer.protocols import Session
from optimizer.values import Artifact


@dataclass(frozen=True)
class Layer:
    """A quantized layer, named as the float graph names it, which is how a recipe selects it."""

    name: str
    op: str  # as `op:Type` selects it
    macs: int = 0
    weights: int = 0  # stored values that it alone would bring back to float


class Variants(Protocol):
    """All variants of one candidate."""

    @property
    def layers(self) -> Sequence[Layer]:
        """The quantized layers in topological order."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What variants do not show, one sentence each."""
        ...

    def session(self, kept: Set[str]) -> Session:
        """A session with these layers in float, quick to get, for searching; valid until the next call."""
        ...

    def same(self, kept: Set[str]) -> object:
        """Equal for choices that give the same variant."""
        ...

    def written(self, kept: Set[str], folder: Path) -> Artifact:
        """The variant as files of the target's format, nodes named as layers are."""
        ...

    def real(self, kept: Set[str]) -> AbstractContextManager[Session]:
        """The variant run by the target itself, in its own kernels."""
        ...


def types(layers: Sequence[Layer]) -> Mapping[str, tuple[str, ...]]:
    """Operator type -> its layers."""
    found: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        found[layer.op] = (*found.get(layer.op, ()), layer.name)
    return found
