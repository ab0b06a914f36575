"""Channels that can only leave together, from Torch-Pruning's dependency graph (Fang et al. 2023, arXiv:2301.12900).

The graph is read, never acted on: what leaves is written down as edits in coordinates of the module as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError
from optimizer.formats.quiet import quiet
from optimizer.formats.torch import TorchModel, as_tensor, flat_outputs
from optimizer.passes.prune_channels import attention
from optimizer.passes.prune_channels.layers import Shape, Side, bare, shape_of
from optimizer.protocols import Feeds

if TYPE_CHECKING:
    from torch import nn

# What tracing raises on models that the graph does not expect, none of it documented.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


@dataclass(frozen=True)
class Member:
    """One side of a layer that loses channels with its group: its channel `own[i]` goes with the root's `root[i]`."""

    layer: str  # dotted path; of a bare parameter, that of the tensor
    side: Side
    shape: Shape
    own: tuple[int, ...]
    root: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Channels of a root layer and everything that is cut with them."""

    name: str  # of the root layer
    width: int
    members: tuple[Member, ...]
    units: tuple[tuple[int, ...], ...]  # channels of the root that leave together
    heads: attention.Heads | None = None  # whose heads the units are

    @property
    def mixes(self) -> bool:
        """Whether a normalization over these channels makes each depend on all."""
        return any(member.shape.mixes for member in self.members)


@dataclass(frozen=True)
class Found:
    """The groups of a module, and what belongs to none: the layer and the reason."""

    groups: tuple[Group, ...]
    refused: Mapping[str, str]


def find_groups(model: TorchModel, feeds: Feeds) -> Found:
    """All groups that a convolution or a linear layer is the root of.

    Raises OptimizerError when the module cannot be traced.
    """
    with quiet():
        graph, final = _traced(model, feeds)
    groups: list[Group] = []
    refused: dict[str, str] = {}
    seen: set[str] = set()
    names = {module: name for name, module in model.module.named_modules()}
    for layer in list(graph.module2node):
        name = names.get(layer, "")
        if not is_root(layer) or name in seen:
            continue
        try:
            found = _group(model.module, graph, names, layer)
        except FAULTS as error:
            refused[name] = _line(error)
            continue
        written = {m.layer for m in found.members if m.side == "out"}
        seen |= written
        if written & final:
            refused[name] = "its channels are the model's output"
        else:
            groups.append(found)
    return Found(tuple(groups), refused)


def _traced(model: TorchModel, feeds: Feeds) -> tuple[Any, set[str]]:
    """The dependency graph, and the layers whose output is the model's."""
    import torch
    import torch_pruning

    tensors = {spec.name: as_tensor(spec, feeds) for spec in model.signature.inputs}
    for parameter in model.module.parameters():
        parameter.requires_grad_(parameter.dtype.is_floating_point)  # what is frozen leaves no trace
    made: list[tuple[str, Any]] = []  # tensors themselves: the id of one that is gone may be another's
    hooks = [
        inner.register_forward_hook(lambda _, __, out, name=name: made.append((name, out)))
        for name, inner in model.module.named_modules()
        if is_root(inner)
    ]
    final: set[str] = set()

    def forward(_: Any, given: Any) -> list[torch.Tensor]:
        found = [tensor for _, tensor in flat_outputs(model.built, given)]
        final.update(name for name, out in made if any(out is tensor for tensor in found))
        return [tensor for tensor in found if tensor.grad_fn is not None]

    try:
        graph = torch_pruning.DependencyGraph()
        graph.build_dependency(model.module, tensors, forward_fn=forward, verbose=False)
    except FAULTS as error:
        recurrent = [name for name, m in model.module.named_modules() if isinstance(m, torch.nn.RNNBase)]
        through = f" through {', '.join(recurrent)} (recurrent layers)" if recurrent else ""
        raise OptimizerError(
            f"{model.record.origin}: its channels cannot be traced{through}: {_line(error)}",
            "prune.depth and prune.weights need no trace",
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    return graph, final


def is_root(layer: Any) -> bool:
    """Whether a layer writes channels of its own: a convolution or a linear layer."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return isinstance(layer, _ConvNd | nn.Linear)


def _group(module: nn.Module, graph: Any, names: Mapping[Any, str], layer: Any) -> Group:
    """The group that the outputs of a layer are the root of; with attention in between, its heads are the units.

    Raises ValueError with the reason for a group that cannot be cut.
    """
    pruner = graph.get_pruner_of_module(layer)
    width = int(pruner.get_out_channels(layer))
    found = graph.get_pruning_group(layer, pruner.prune_out_channels, list(range(width)))
    attends = attention.between(item.dep.target for item in found.items)
    reader = next((i.dep for i in found.items if _side(i) == "in" and is_root(i.dep.target.module)), None)
    if attends and reader is not None:  # it reads the heads one after the other, whatever the projections do
        width = int(graph.get_in_channels(reader.target.module))
        found = graph.get_pruning_group(reader.target.module, reader.handler, list(range(width)))
    members = tuple(m for item in found.items if (m := _member(graph, names, item)) is not None)
    if attends:
        members = tuple(_fused(member, width) for member in members)
    group = Group(names[layer], width, members, ())
    writers = [m.layer for m in members if m.side == "out"]
    heads = attention.heads_of(module, writers, width) if attends and writers else None
    return replace(group, heads=heads, units=units_of(group, heads))


def _side(item: Any) -> Side:
    return "in" if item.dep.handler.__name__ == "prune_in_channels" else "out"


def _member(graph: Any, names: Mapping[Any, str], item: Any) -> Member | None:
    """What the graph says of one node; None for operators and layers that hold nothing of a channel."""
    from torch import nn

    target = item.dep.target.module
    own, root = tuple(item.idxs), tuple(item.root_idxs)
    if isinstance(target, nn.Parameter):
        axis = item.dep.target.pruning_dim % target.dim()
        return _checked(Member(graph._param_to_name[target], "out", bare(target, axis), own, root))
    if target not in names or (isinstance(target, nn.PReLU) and target.num_parameters == 1):
        return None
    shape = shape_of(target, _side(item))
    if shape is None:
        raise ValueError(f"{names[target]} ({type(target).__name__}) cannot be cut")
    return _checked(Member(names[target], _side(item), shape, own, root))


def _fused(member: Member, width: int) -> Member:
    """One projection that writes query, key and value one after the other loses the same channels of each."""
    times = member.shape.width // width
    if member.side == "in" or times < 2 or member.shape.width % width or set(member.own) != set(range(width)):
        return member
    own = tuple(c + part * width for part in range(times) for c in member.own)
    return replace(member, own=own, root=member.root * times)


def _checked(member: Member) -> Member:
    """The member, when its channels and the root's match; else ValueError."""
    if len(member.own) != len(member.root) or None in member.root:
        raise ValueError(f"which channels of {member.layer} belong to it is not known")
    if not all(0 <= c < member.shape.width for c in member.own):
        raise ValueError(f"{member.layer} has {member.shape.width} channels only")
    return member


def units_of(group: Group, heads: attention.Heads | None) -> tuple[tuple[int, ...], ...]:
    """Channels of the root that can only leave together: of one head, or in the same place of every conv group.

    Raises ValueError where a grouped layer shares its groups with other channels.
    """
    if heads is not None:
        return tuple(tuple(range(h * heads.size, (h + 1) * heads.size)) for h in range(heads.count))
    leader = list(range(group.width))
    for member in group.members:
        if member.shape.apart > 1:
            for together in _tied(member):
                first = min(leader[c] for c in together)
                joined = {leader[c] for c in together}
                leader = [first if c in joined else c for c in leader]
    found: dict[int, list[int]] = {}
    for channel, first in enumerate(leader):
        found.setdefault(first, []).append(channel)
    return tuple(tuple(channels) for channels in found.values())


def _tied(member: Member) -> list[list[int]]:
    """Root channels that have the same place within each part of a layer in equal parts."""
    size = member.shape.width // member.shape.apart
    found: dict[int, list[int]] = {}
    for own, root in zip(member.own, member.root, strict=True):
        found.setdefault(own % size, []).append(root)
    if any(len(roots) != member.shape.apart for roots in found.values()):
        raise ValueError(f"{member.layer} is in {member.shape.apart} parts that also hold other channels")
    return list(found.values())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
