"""What `module.json` says: where a PyTorch module comes from, and what it was when it was first looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optimizer.formats.edits import Edit
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

LAYOUT = 1
LARGE = 1 << 30  # more than any size: of a free dimension that nothing bounds above


@dataclass(frozen=True)
class Record:
    """How to rebuild a module: one of `entry`, `file` and `hf`, and the digests that they had."""

    signature: Signature
    entry: str | None = None
    args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    file: str | None = None
    hf: str | None = None
    task: str | None = None
    dims: dict[str, tuple[int, int]] = field(default_factory=dict)  # smallest and largest size to support
    seed: int = 0  # of weights that the entry's callable draws
    edits: tuple[Edit, ...] = ()  # what passes changed in the module, in order
    digests: dict[str, str] = field(default_factory=dict)
    bytes: int = 0  # parameters and buffers
    masked: tuple[str, ...] = ()  # parameters whose zeros stay zero in training
    state: str | None = None  # trained weights: a .safetensors file beside module.json, loaded after everything else
    layout: int = LAYOUT

    @property
    def origin(self) -> str:
        """The model in the user's words, for messages."""
        return str(self.entry or self.file or self.hf)

    @property
    def compiled(self) -> str | None:
        """What kind of compiled program the module is, whose weights cannot be trained or cut; None for Python code."""
        if self.file is None:
            return None
        return "a TorchScript archive" if self.scripted else "a program of torch.export"

    @property
    def scripted(self) -> bool:
        """Whether the module is a TorchScript archive: compiled code that no tracer of Python sees into."""
        return self.file is not None and not self.file.endswith(".pt2")


@dataclass(frozen=True)
class Built:
    """A rebuilt module in eval mode. `select` picks the outputs that count, given raw outputs and inputs."""

    module: nn.Module
    keywords: bool  # inputs go in by name
    select: Callable[[Any, Mapping[str, torch.Tensor]], Any] | None = None
