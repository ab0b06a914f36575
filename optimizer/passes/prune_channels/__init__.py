"""prune.channels: whole channels, attention heads and hidden units leave; what is left is a smaller plain module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.formats import torch as torch_format
from optimizer.passes.prune_channels.options import Options
from optimizer.passes.prune_channels.run import run
from optimizer.recipe import Use

__all__ = [
    "CONSUMES", "DATA", "EAGER", "LIMIT", "PRODUCES", "SCHEMED", "SEARCH", "TOOLS", "VERSION", "Options", "data",
    "measures", "run", "stale",
]  # fmt: skip

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "torch"
TOOLS = ("torch", "torch-pruning")
DATA = ("calibrate", "train")
SCHEMED = False
LIMIT = None  # it changes numbers on purpose; the gates decide
EAGER = True
SEARCH: tuple[dict[str, object], ...] = ()  # a pruned model has to be trained before its accuracy says anything


def data(options: Options) -> tuple[str, ...]:
    """The data that these options read."""
    read = {options.data} if options.importance in ("taylor", "hessian") else set()
    return tuple(sorted(read | ({"train"} if options.recover else set())))


def measures(options: Options) -> Sequence[Use] | None:
    """The steps between an attempt and its timing, where attempts are timed."""
    return options.through if options.measured else None


def stale(path: Path, options: Options) -> bool:  # noqa: ARG001  # the protocol's signature
    """Whether the user's files that the stored module is rebuilt from have moved."""
    return torch_format.moved(path)
