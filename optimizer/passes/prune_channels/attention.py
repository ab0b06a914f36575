"""Heads of attention: which attribute counts them, and that channels leave head by head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

COUNTS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "nhead", "heads")
TOTALS = ("all_head_size", "inner_dim", "attention_dim")
"""Attributes by which attention layers of common libraries count heads, and channels of all heads together."""
PRODUCTS = ("scaleddotproduct", "bmmbackward")


@dataclass(frozen=True)
class Heads:
    """How many heads a module says that it has, of how many channels each."""

    module: str  # dotted path of the module that counts them
    attribute: str
    count: int
    size: int
    totals: tuple[str, ...]  # other attributes of it that hold count x size


def between(nodes: Iterable[Any]) -> bool:
    """Whether one of these nodes of a dependency graph multiplies activations by activations."""
    names = (node.grad_fn.name().lower() for node in nodes if hasattr(node.grad_fn, "name"))
    return any(part in name for name in names for part in PRODUCTS)


def heads_of(module: nn.Module, layers: Sequence[str], width: int) -> Heads | None:
    """The heads of the attention that these projections of `width` channels belong to; None when nothing counts them.

    The nearest module around all of them with such an attribute counts.
    """
    path = _common(layers)
    while True:
        owner: Any = module.get_submodule(path)
        for name in COUNTS:
            count = getattr(owner, name, None)
            if isinstance(count, int) and count > 1 and width % count == 0:
                totals = tuple(t for t in TOTALS if getattr(owner, t, None) == width)
                return Heads(path, name, count, width // count, totals)
        if not path:
            return None
        path = path.rpartition(".")[0]


def _common(paths: Sequence[str]) -> str:
    """The path of the innermost module around all of them."""
    split = [path.split(".")[:-1] for path in paths]
    found = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        found.append(parts[0])
    return ".".join(found)
