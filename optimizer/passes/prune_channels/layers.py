"""What losing a channel means for each kind of layer: which tensors shrink along which axis, which numbers change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

Side = Literal["in", "out"]
"""Whether a layer loses what it reads, or what it writes."""


@dataclass(frozen=True)
class Slice:
    """An axis of one of a layer's tensors that the layer's channels lie along.

    `repeats`: channels wrap around an axis that is shorter, since every group of a convolution has one of its own.
    """

    tensor: str
    axis: int
    repeats: int = 1


@dataclass(frozen=True)
class Shape:
    """One side of a layer: how many channels, where they lie, and which attributes count them."""

    width: int
    slices: tuple[Slice, ...]
    counters: tuple[str, ...]
    apart: int = 1  # equal parts of the channels that must stay of equal size
    mixes: bool = False  # every channel of the result depends on all channels


def shape_of(layer: Any, side: Side) -> Shape | None:
    """The side of a layer; None for a kind that cannot be cut."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.conv import _ConvNd
    from torch.nn.modules.instancenorm import _InstanceNorm

    if isinstance(layer, _ConvNd):
        return _convolution(layer, side)
    if isinstance(layer, nn.Linear):
        return _linear(layer, side)
    if isinstance(layer, nn.Embedding):
        return Shape(layer.embedding_dim, (Slice("weight", 1),), ("embedding_dim",))
    if isinstance(layer, _BatchNorm | _InstanceNorm):
        return Shape(layer.num_features, _present(layer, "running_mean", "running_var"), ("num_features",))
    if isinstance(layer, nn.LayerNorm):
        axis = len(layer.normalized_shape) - 1
        return Shape(layer.normalized_shape[-1], _present(layer, axis=axis), ("normalized_shape",), mixes=True)
    if isinstance(layer, nn.GroupNorm):
        return Shape(layer.num_channels, _present(layer), ("num_channels",), apart=layer.num_groups, mixes=True)
    if isinstance(layer, nn.PReLU) and layer.num_parameters > 1:
        return Shape(layer.num_parameters, (Slice("weight", 0),), ("num_parameters",))
    return None


def bare(parameter: Any, axis: int) -> Shape:
    """A parameter that belongs to no layer, such as learnt positions."""
    return Shape(int(parameter.shape[axis]), (Slice("", axis),), ())


def _present(layer: nn.Module, *buffers: str, axis: int = 0) -> tuple[Slice, ...]:
    """Those of weight, bias and the buffers that a normalization has."""
    names = ("weight", "bias", *buffers)
    return tuple(Slice(name, axis) for name in names if getattr(layer, name, None) is not None)


def _linear(layer: Any, side: Side) -> Shape:
    if side == "in":
        return Shape(layer.in_features, (Slice("weight", 1),), ("in_features",))
    return Shape(layer.out_features, _present(layer), ("out_features",))


def _convolution(layer: Any, side: Side) -> Shape:
    bias = (Slice("bias", 0),) if layer.bias is not None else ()
    groups = layer.groups
    if groups == layer.in_channels == layer.out_channels and groups > 1:
        return Shape(groups, (Slice("weight", 0), *bias), ("in_channels", "out_channels", "groups"))
    # weight: (out, in of one group, ...), transposed (in, out of one group, ...)
    if side == "out":
        place = Slice("weight", 1, groups) if layer.transposed else Slice("weight", 0)
        return Shape(layer.out_channels, (place, *bias), ("out_channels",), apart=groups)
    place = Slice("weight", 0) if layer.transposed else Slice("weight", 1, groups)
    return Shape(layer.in_channels, (place,), ("in_channels",), apart=groups)
