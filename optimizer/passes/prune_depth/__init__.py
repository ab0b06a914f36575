"""prune.depth: whole blocks of a stack of equal ones leave, those first whose absence the outputs feel least."""

from __future__ import annotations

from pathlib import Path

from optimizer.formats import torch as torch_format
from optimizer.passes.prune_depth.options import Options
from optimizer.passes.prune_depth.run import run

__all__ = [
    "CONSUMES", "DATA", "EAGER", "LIMIT", "PRODUCES", "SCHEMED", "SEARCH", "TOOLS", "VERSION", "Options", "data", "run",
    "stale",
]  # fmt: skip

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "torch"
TOOLS = ("torch",)
DATA = ("calibrate", "train")
SCHEMED = False
LIMIT = None  # it changes numbers on purpose; the gates decide
EAGER = True
SEARCH: tuple[dict[str, object], ...] = ()  # a pruned model has to be trained before its accuracy says anything


def data(options: Options) -> tuple[str, ...]:
    """The data that these options read: none where the blocks are named."""
    return () if options.blocks else (options.data,)


def stale(path: Path, options: Options) -> bool:  # noqa: ARG001  # the protocol's signature
    """Whether the user's files that the stored module is rebuilt from have moved."""
    return torch_format.moved(path)
