"""prune.depth: whole blocks of a stack of equal ones leave, those first whose absence the outputs feel least."""

from __future__ import annotations

from optimizer.passes.prune_depth.options import Options
from optimizer.passes.prune_depth.run import run

__all__ = [
    "CONSUMES", "DATA", "LIMIT", "PRODUCES", "SCHEMED", "SEARCH", "TOOLS", "VERSION", "Options", "data", "run",
]  # fmt: skip

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "torch"
TOOLS = ("torch",)
DATA = ("calibrate", "train")
SCHEMED = False
LIMIT = None
SEARCH: tuple[dict[str, object], ...] = ()  # a pruned model has to be trained before its accuracy says anything


def data(options: Options) -> tuple[str, ...]:
    """The data that these options read: none where the blocks are named."""
    return () if options.blocks else (options.data,)
