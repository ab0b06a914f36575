"""Zeros that stay: parameters whose zeros were made on purpose keep them through whatever trains the module later."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from optimizer.formats.edits import find

if TYPE_CHECKING:
    import torch
    from torch import nn

LEVEL = 1  # of zlib: what is wanted is how much smaller, not the smallest


def hold(module: nn.Module, names: Iterable[str]) -> list[Any]:
    """Take the gradient from every weight of these parameters that is zero now; returns the hooks' handles.

    A weight without a gradient stays zero under SGD and Adam, with momentum and decay, since all of these multiply.
    """
    tensors = (find(module, name) for name in names)
    return [t.register_hook(_without(t.detach() == 0)) for t in tensors if t.requires_grad]


def _without(zeros: torch.Tensor) -> Any:
    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.masked_fill(zeros.to(gradient.device), 0.0)

    return hook


def lanes(weight: torch.Tensor, width: int) -> torch.Tensor:
    """The weight as rows of `width` values that follow each other along the input channels; a view where it can be.

    Sparse kernels read runs of input channels: of a convolution (out, in, ...) those at one place of the kernel.
    """
    return weight.movedim(1, -1).reshape(-1, width)


def follows(weight: torch.Tensor, nonzero: int, width: int) -> bool:
    """Whether no run of `width` input channels has more than `nonzero` weights that are not zero."""
    return bool(((lanes(weight.detach(), width) != 0).sum(1) <= nonzero).all())


def compressed(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes of the tensors after zlib, each by itself."""
    return sum(len(zlib.compress(t.detach().contiguous().numpy().tobytes(), LEVEL)) for t in tensors)
