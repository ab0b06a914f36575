"""prune.weights: single weights become zero, anywhere or in a pattern such as 2:4, and stay it in training.

It gains size once the file is compressed. Dense kernels take the same time; only kernels made for a pattern, such as
TensorRT's for 2:4, can be faster.
"""

from __future__ import annotations

from pathlib import Path

from optimizer.formats import torch as torch_format
from optimizer.passes.prune_weights.options import Options
from optimizer.passes.prune_weights.run import run

__all__ = [
    "CONSUMES", "DATA", "EAGER", "LIMIT", "PRODUCES", "SCHEMED", "SEARCH", "TOOLS", "VERSION", "Options", "data", "run",
    "stale",
]  # fmt: skip

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "torch"
TOOLS = ("torch", "safetensors")
DATA = ("calibrate", "train")
SCHEMED = False
LIMIT = None  # it changes numbers on purpose; the gates decide
EAGER = True
SEARCH: tuple[dict[str, object], ...] = ()  # a pruned model has to be trained before its accuracy says anything


def data(options: Options) -> tuple[str, ...]:
    """The data that these options read."""
    read = {options.data} if options.method == "wanda" else set()
    return tuple(sorted(read | ({"train"} if options.recover else set())))


def stale(path: Path, options: Options) -> bool:  # noqa: ARG001  # the protocol's signature
    """Whether the user's files that the stored module is rebuilt from have moved."""
    return torch_format.moved(path)
