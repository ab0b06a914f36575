"""The layers whose weights can become zero, and what wanda wants to know of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer import selectors
from optimizer.formats import nodes
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_weights.options import Options
from optimizer.protocols import Context

if TYPE_CHECKING:
    import torch
    from torch import nn

TOGETHER = 16  # examples per inference


@dataclass(frozen=True)
class Layer:
    """A layer with a matrix or a kernel: `weight` is the dotted path of its parameter, (out, in, ...)."""

    path: str
    weight: str


def layers_of(model: TorchModel, options: Options) -> tuple[list[Layer], dict[str, str]]:
    """The layers that become sparse, and the others with the reason why they stay dense."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    kept = selectors.select(options.keep, nodes.torch_nodes(model.module), "prune.weights, keep")
    shared = _shared(model.module)
    found, dense = [], {}
    for path, inner in model.module.named_modules():
        if not isinstance(inner, _ConvNd | nn.Linear):
            continue
        reason = _reason(path, inner, kept, shared, options)
        if reason is None:
            found.append(Layer(path, f"{path}.weight" if path else "weight"))
        else:
            dense[path] = reason
    return found, dense


def _reason(path: str, layer: Any, kept: set[str], shared: set[int], options: Options) -> str | None:
    if any(path == k or path.startswith(f"{k}.") for k in kept):
        return "kept as asked"
    if id(layer.weight) in shared:
        return "another layer has the same weights"
    if getattr(layer, "transposed", False):
        return "transposed: its weights lie the other way round"
    if options.runs and layer.weight.shape[1] % options.runs[1]:
        return f"{layer.weight.shape[1]} input channels are no multiple of {options.runs[1]}"
    return None


def _shared(module: nn.Module) -> set[int]:
    """Parameters that several modules hold."""
    seen: set[int] = set()
    twice: set[int] = set()
    for inner in module.modules():
        for parameter in inner._parameters.values():
            if parameter is not None:
                (twice if id(parameter) in seen else seen).add(id(parameter))
    return twice


def norms(model: TorchModel, layers: Sequence[Layer], options: Options, ctx: Context) -> Mapping[str, torch.Tensor]:
    """Layer -> the norm of what each weight is multiplied by, over the calibration data; broadcasts to its weight.

    A layer that no example reached is missing.
    """
    import torch

    sums: dict[str, torch.Tensor] = {}

    def watch(path: str) -> Any:
        def hook(layer: Any, args: tuple[Any, ...]) -> None:
            given = args[0].detach().double()
            axis = -1 if isinstance(layer, torch.nn.Linear) else 1
            power = given.movedim(axis, 0).flatten(1).pow(2).sum(1)
            sums[path] = sums.get(path, 0) + power

        return hook

    paths = [layer.path for layer in layers]
    hooks = [model.module.get_submodule(path).register_forward_pre_hook(watch(path)) for path in paths]
    try:
        for batch in ctx.data[options.data].batches(TOGETHER, options.samples):
            model(batch.feeds)
    finally:
        for handle in hooks:
            handle.remove()
    return {path: _per_weight(model.module.get_submodule(path), power.sqrt()) for path, power in sums.items()}


def _per_weight(layer: Any, norm: torch.Tensor) -> torch.Tensor:
    """The norms of the input channels in the shape of the weight: rows of a group read the channels of that group."""
    groups = getattr(layer, "groups", 1)
    rows = norm.reshape(groups, -1).repeat_interleave(layer.weight.shape[0] // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (layer.weight.dim() - 2)).float()
