"""What is changed in a rebuilt module before it runs: axes cut, numbers set, blocks dropped. Data, never code.

A pruned module is the user's own code with these edits replayed, so nothing is pickled and only torch is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Cut:
    """Of one axis of a parameter or buffer, only the indices `kept` stay, in this order."""

    tensor: str  # dotted path; a tensor that has several names changes under all of them
    axis: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Assign:
    """A number that the module's code reads, such as `out_channels`, or `config.num_hidden_layers`."""

    module: str  # dotted path, "" for the module itself
    name: str  # of the attribute, dotted where it belongs to an attribute's value
    value: int | tuple[int, ...]


@dataclass(frozen=True)
class Drop:
    """A block leaves its ModuleList or Sequential; those behind it move up."""

    block: str  # dotted path at the time when this edit is replayed


Edit = Cut | Assign | Drop


def apply(module: nn.Module, edits: Sequence[Edit]) -> None:
    """Change the module in place, edit by edit. Raises OptimizerError for an edit that does not fit it."""
    for edit in edits:
        try:
            if isinstance(edit, Cut):
                _cut(module, edit)
            elif isinstance(edit, Assign):
                _assign(module, edit)
            else:
                _drop(module, edit)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise OptimizerError(
                f"a recorded change does not fit {type(module).__name__}: {edit}: {error}",
                "the model's code or its libraries have changed since: build it again",
            ) from None


def _cut(module: nn.Module, edit: Cut) -> None:
    import torch

    old = find(module, edit.tensor)
    with torch.no_grad():
        new = old.detach().index_select(edit.axis, torch.tensor(edit.kept, dtype=torch.long))
    if isinstance(old, torch.nn.Parameter):
        new = torch.nn.Parameter(new, requires_grad=old.requires_grad)
    for table, name in list(_holders(module, old)):
        table[name] = new


def find(module: nn.Module, path: str) -> torch.Tensor:
    """The parameter or buffer of a dotted path; raises AttributeError when there is none."""
    owner, _, name = path.rpartition(".")
    found: Any = getattr(module.get_submodule(owner), name)
    return found


def _holders(module: nn.Module, tensor: torch.Tensor) -> Iterator[tuple[dict[str, Any], str]]:
    """Every table of parameters or buffers in which a tensor stands, with its name there."""
    for inner in module.modules():
        for table in (inner._parameters, inner._buffers):
            yield from ((table, name) for name, held in table.items() if held is tensor)


def _assign(module: nn.Module, edit: Assign) -> None:
    *path, name = edit.name.split(".")
    owner: Any = module.get_submodule(edit.module)
    for part in path:
        owner = getattr(owner, part)
    getattr(owner, name)  # a misspelt name would be a new attribute that nobody reads
    setattr(owner, name, edit.value)


def _drop(module: nn.Module, edit: Drop) -> None:
    container, _, name = edit.block.rpartition(".")
    blocks: Any = module.get_submodule(container)
    del blocks[list(blocks._modules).index(name)]
