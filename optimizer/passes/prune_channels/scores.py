"""How much each unit of a group matters: by its weights, or by what the outputs would feel of its absence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats.edits import find
from optimizer.formats.torch import TorchModel, as_tensor, flat_outputs
from optimizer.passes.prune_channels.cutting import path_of
from optimizer.passes.prune_channels.groups import Group, Member
from optimizer.passes.prune_channels.layers import Slice
from optimizer.passes.prune_channels.options import Importance, Options
from optimizer.protocols import Batch, Context

if TYPE_CHECKING:
    import torch
    from torch import nn

Scores = Mapping[str, np.ndarray]
"""Name of a group -> one number per unit, comparable between groups; more is more important."""


def score(model: TorchModel, groups: Sequence[Group], options: Options, ctx: Context) -> Scores:
    """The importance of every unit of every group; float64 arrays (units,).

    Raises OptimizerError when no group has what the importance is read from.
    """
    if options.importance in ("magnitude", "bn_scale"):
        found = {group.name: _by_weights(model.module, group, options.importance) for group in groups}
    else:
        found = _by_gradients(model, groups, options, ctx)
    known = {name: values for name, values in found.items() if values is not None}
    if not known:
        raise OptimizerError(
            f"prune.channels: no group of channels has a batch norm to read importance {options.importance} from",
            "choose importance: magnitude, or taylor with data",
        )
    groups_by_name = {group.name: group for group in groups}
    return {name: _per_unit(groups_by_name[name], values) for name, values in known.items()}


def _per_unit(group: Group, values: np.ndarray) -> np.ndarray:
    return np.array([values[list(unit)].mean() for unit in group.units])


def _by_weights(module: nn.Module, group: Group, importance: Importance) -> np.ndarray | None:
    """Mean over the group's layers of the squared norm of a channel's weights (Li et al. 2017, arXiv:1608.08710,
    over groups as Fang et al. 2023), or of the absolute scale of its batch norms (Liu et al. 2017, arXiv:1708.06519).

    Divided by the group's mean: layers have scales of their own.
    """
    total, layers = np.zeros(group.width), 0
    for member, place in _weights(group):
        tensor = find(module, path_of(member, place)).detach()
        scale = _is_scale(module, member)
        if importance == "bn_scale" and not scale:
            continue
        values = tensor.abs() if importance == "bn_scale" else tensor.double().pow(2)
        _add(total, member, place, _other_axes(values, place))
        layers += 1
    mean = total.mean()
    return total / (mean if mean > 0 else 1.0) if layers else None


def _is_scale(module: nn.Module, member: Member) -> bool:
    from torch.nn.modules.batchnorm import _BatchNorm

    return bool(member.layer) and isinstance(_module_at(module, member.layer), _BatchNorm)


def _module_at(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:  # a parameter that belongs to no layer
        return None


def _weights(group: Group) -> Iterator[tuple[Member, Slice]]:
    """The weights of the group's layers, without biases and statistics."""
    for member in group.members:
        for place in member.shape.slices:
            if place.tensor in ("weight", ""):
                yield member, place


def _other_axes(values: torch.Tensor, place: Slice) -> np.ndarray:
    others = [axis for axis in range(values.dim()) if axis != place.axis]
    found: np.ndarray = (values.sum(others) if others else values).double().numpy()
    return found


def _add(total: np.ndarray, member: Member, place: Slice, values: np.ndarray) -> None:
    """Add a layer's values, one per index of the tensor's axis, to the channels of the root."""
    size = member.shape.width // place.repeats
    np.add.at(total, np.asarray(member.root), values[np.asarray(member.own) % size])


def _by_gradients(
    model: TorchModel, groups: Sequence[Group], options: Options, ctx: Context
) -> dict[str, np.ndarray | None]:
    """What the loss would feel if a channel's readers read zeros, squared and averaged over examples.

    taylor: to first order, (sum w dL/dw)^2 over the weights that read it (Molchanov et al. 2019, arXiv:1906.10771).
    hessian: to second order, sum w^2 (dL/dw)^2, the Hessian's diagonal estimated by the Fisher information (LeCun et
    al. 1990, Optimal Brain Damage; Theis et al. 2018, arXiv:1801.05787).
    """
    import torch

    totals = {group.name: np.zeros(group.width) for group in groups}
    readers = {g.name: [(m, p) for m, p in _weights(g) if m.side == "in"] or list(_weights(g)) for g in groups}
    dataset = ctx.data[options.data]
    loss = _loss(ctx.seed)
    module, count = model.module, 0
    places = sorted({path_of(m, p) for found in readers.values() for m, p in found})
    tensors = {path: find(module, path) for path in places}
    total = min(options.samples, len(dataset))
    for batch in dataset.batches(1, total):
        with torch.enable_grad():
            value = loss(model, batch)
        slopes = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
        effects = {
            path: _effect(tensor, slope, options.importance)
            for (path, tensor), slope in zip(tensors.items(), slopes, strict=True)
            if slope is not None
        }
        for name, found in readers.items():
            felt = np.zeros_like(totals[name])
            for member, place in found:
                if path_of(member, place) in effects:
                    _add(felt, member, place, _other_axes(effects[path_of(member, place)], place))
            totals[name] += felt**2 if options.importance == "taylor" else felt
        count += 1
        ctx.progress(count, total)
    return {name: values / max(count, 1) for name, values in totals.items()}


def _effect(tensor: torch.Tensor, slope: torch.Tensor, importance: Importance) -> torch.Tensor:
    found = tensor.detach() * slope
    return found if importance == "taylor" else found.pow(2)


def _loss(seed: int) -> Callable[[TorchModel, Batch], Any]:
    """Cross entropy where the data has class labels, else a random projection of the outputs.

    The expected square of a projection's first-order change is that of the outputs themselves, so that no label is
    needed to know what they feel.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def loss(model: TorchModel, batch: Batch) -> torch.Tensor:
        tensors = {spec.name: as_tensor(spec, batch.feeds) for spec in model.signature.inputs}
        found = [tensor for _, tensor in flat_outputs(model.built, tensors)]
        labels = batch.labels
        scores = found[0]
        if labels is not None and labels.dtype.kind in "iu" and labels.ndim == 1 and scores.dim() == 2:
            return torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels.astype(np.int64)))
        floats = [tensor for tensor in found if tensor.dtype.is_floating_point]
        return torch.stack([(t * torch.randn(t.shape, generator=generator)).sum() for t in floats]).sum()

    return loss
