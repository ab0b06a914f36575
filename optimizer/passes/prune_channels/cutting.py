"""Groups and the channels that they lose, as edits; and the same channels silenced or swapped, to compare with."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from optimizer.formats.edits import Assign, Cut, Edit, find
from optimizer.passes.prune_channels.groups import Group, Member
from optimizer.passes.prune_channels.layers import Slice

if TYPE_CHECKING:
    from torch import nn

Removal = Mapping[Group, Collection[int]]
"""Group -> the channels of its root that leave."""


def cuts(module: nn.Module, removal: Removal) -> list[Edit]:
    """The edits that take these channels out of the module."""
    gone: dict[tuple[str, int], set[int]] = {}
    counted: dict[tuple[str, str], set[int]] = {}
    names = _canonical(module)
    for group, channels in removal.items():
        leaving = set(channels)
        for member in group.members:
            own = {c for c, root in zip(member.own, member.root, strict=True) if root in leaving}
            for place in member.shape.slices:
                key = names[id(find(module, path_of(member, place)))], place.axis
                gone.setdefault(key, set()).update(_within(member, place, own))
            for counter in member.shape.counters:
                counted.setdefault((member.layer, counter), set()).update(own)
    found: list[Edit] = []
    for (tensor, axis), indices in gone.items():
        size = find(module, tensor).shape[axis]
        found.append(Cut(tensor, axis, tuple(i for i in range(size) if i not in indices)))
    found += [_counted(module, layer, counter, len(own)) for (layer, counter), own in counted.items()]
    return found + [edit for group, channels in removal.items() for edit in _heads(group, len(set(channels)))]


def _canonical(module: nn.Module) -> dict[int, str]:
    """Tensor -> the first of its names: tied weights are cut once."""
    found: dict[int, str] = {}
    for tables in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for name, tensor in tables:
            found.setdefault(id(tensor), name)
    return found


def path_of(member: Member, place: Slice) -> str:
    """The dotted path of a member's tensor."""
    return f"{member.layer}.{place.tensor}" if place.tensor else member.layer


def _within(member: Member, place: Slice, own: Collection[int]) -> set[int]:
    """Indices on the tensor's axis; with repeats, every group of a convolution has the same ones."""
    return {c % (member.shape.width // place.repeats) for c in own}


def _counted(module: nn.Module, layer: str, counter: str, gone: int) -> Assign:
    value = getattr(module.get_submodule(layer), counter)
    return Assign(layer, counter, (*value[:-1], value[-1] - gone) if isinstance(value, tuple) else value - gone)


def _heads(group: Group, gone: int) -> Iterator[Edit]:
    if group.heads is not None and gone:
        kept = group.heads.count - gone // group.heads.size
        yield Assign(group.heads.module, group.heads.attribute, kept)
        for total in group.heads.totals:
            yield Assign(group.heads.module, total, kept * group.heads.size)


def silence(module: nn.Module, group: Group, channels: Collection[int]) -> bool:
    """Make every layer that reads these channels read zeros instead, in place; False when no layer reads them."""
    import torch

    leaving, read = set(channels), False
    for member in group.members:
        if member.side == "in":
            own = {c for c, root in zip(member.own, member.root, strict=True) if root in leaving}
            for place in member.shape.slices:
                indices = torch.tensor(sorted(_within(member, place, own)), dtype=torch.long)
                with torch.no_grad():
                    find(module, path_of(member, place)).index_fill_(place.axis, indices, 0)
                read = True
    return read


def swaps(module: nn.Module, group: Group) -> list[Edit]:
    """Edits that change the order of the group's units everywhere, which a right group does not notice."""
    order = list(range(len(group.units)))
    random.Random(group.name).shuffle(order)  # noqa: S311  # an order, not a secret
    taken = {
        here: there
        for unit, place in zip(group.units, order, strict=True)
        for here, there in zip(unit, group.units[place], strict=True)
    }
    names = _canonical(module)
    axes: dict[tuple[str, int], dict[int, int]] = {}
    for member in group.members:
        owned: dict[int, list[int]] = {}
        for own, root in zip(member.own, member.root, strict=True):
            owned.setdefault(root, []).append(own)
        for place in member.shape.slices:
            size = member.shape.width // place.repeats
            key = names[id(find(module, path_of(member, place)))], place.axis
            for root, here in owned.items():
                pairs = zip(here, owned[taken[root]], strict=True)
                axes.setdefault(key, {}).update({a % size: b % size for a, b in pairs})
    return [
        Cut(tensor, axis, tuple(order.get(i, i) for i in range(find(module, tensor).shape[axis])))
        for (tensor, axis), order in axes.items()
    ]
