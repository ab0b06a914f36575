"""Stacks of equal blocks in a module, and the edits that take blocks out of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer.formats.edits import Assign, Drop, Edit
from optimizer.formats.torch import TorchModel
from optimizer.protocols import Feeds

if TYPE_CHECKING:
    from torch import nn

DEPTHS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer", "num_blocks", "depth")
"""Attributes by which modules and configs of common libraries count their blocks."""


@dataclass(frozen=True)
class Block:
    """A block whose input and output have the same shape, so that what follows it could follow what is before it."""

    path: str
    stack: str  # path of the ModuleList or Sequential that it is in

    def within(self, others: Collection[Block]) -> bool:
        """Whether it is a part of one of the others."""
        return any(self.path.startswith(f"{other.path}.") for other in others)


def blocks(model: TorchModel, feeds: Feeds) -> list[Block]:
    """The blocks that could leave, in the order of the module: of one class with all others of their stack."""
    candidates = list(_candidates(model.module))
    shapes: dict[str, tuple[Any, Any]] = {}

    def watch(path: str) -> Any:
        def hook(_: Any, args: tuple[Any, ...], keywords: dict[str, Any], result: Any) -> None:
            shapes[path] = _shape([*args, *keywords.values()]), _shape([result])

        return hook

    hooks = [
        model.module.get_submodule(block.path).register_forward_hook(watch(block.path), with_kwargs=True)
        for block in candidates
    ]
    try:
        model(feeds)
    finally:
        for hook in hooks:
            hook.remove()
    return [b for b in candidates if b.path in shapes and shapes[b.path][0] == shapes[b.path][1] is not None]


def _candidates(module: nn.Module) -> Iterator[Block]:
    from torch import nn

    for path, inner in module.named_modules():
        if isinstance(inner, nn.ModuleList | nn.Sequential):
            children = dict(inner.named_children())
            if len(children) > 1 and len({type(child) for child in children.values()}) == 1:
                yield from (Block(f"{path}.{name}" if path else name, path) for name in children)


def _shape(values: Sequence[Any]) -> tuple[Any, ...] | None:
    """Shape and type of the first tensor among nested values; None where there is none."""
    import torch

    for value in values:
        if isinstance(value, torch.Tensor):
            return tuple(value.shape), value.dtype
        inner = list(value.values()) if isinstance(value, dict) else value
        if isinstance(inner, list | tuple) and (found := _shape(inner)) is not None:
            return found
    return None


def drops(module: nn.Module, leaving: Collection[Block]) -> list[Edit]:
    """The edits that take these blocks out, and those that correct the numbers of blocks which modules keep.

    The last block of a stack leaves first, so that the paths of the others stay what they are.
    """
    places = {block: _place(module, block.path) for block in leaving}
    found: list[Edit] = [Drop(b.path) for b in sorted(leaving, key=lambda b: places[b], reverse=True)]
    for stack in dict.fromkeys(block.stack for block in leaving):
        count = len(list(module.get_submodule(stack).children()))
        left = count - sum(block.stack == stack for block in leaving)
        owner = stack.rpartition(".")[0]
        found += [Assign(owner, name, left) for name in _counters(module.get_submodule(owner), count)]
    return sorted(found, key=lambda edit: isinstance(edit, Drop))  # assigned while every path is what it was


def _place(module: nn.Module, path: str) -> tuple[int, ...]:
    """The position of each part of a path among its siblings."""
    found = []
    for name in path.split("."):
        found.append([child for child, _ in module.named_children()].index(name))
        module = module.get_submodule(name)
    return tuple(found)


def _counters(owner: nn.Module, count: int) -> Iterator[str]:
    """Attributes of a module, or of its config, that hold the number of blocks."""
    for prefix, holder in (("", owner), ("config.", getattr(owner, "config", None))):
        for name in DEPTHS:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value == count:
                yield prefix + name
