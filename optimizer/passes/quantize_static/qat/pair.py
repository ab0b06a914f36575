"""One Q/DQ pair as a fake quantizer: rounds as the runtime does, and has gradients.

Step sizes are learnt as in LSQ (Esser et al., ICLR 2020, arXiv 1902.08153, sections 2.1 and 2.2: the gradient of
equation 3, scaled by 1 / sqrt(N Q)), zero points as in LSQ+ (Bhalgat et al., CVPR Workshops 2020, arXiv 2004.09576,
section 3.1), where the scheme has them and zero is not an end of the range. What is stored is the logarithm of a step
size, so that one learning rate moves small and large steps alike (Jain et al., MLSys 2020, arXiv 1903.08066, section
3.3 and appendix B), and the zero point as a share of the range.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

SPAN = 256  # steps of 8 bits: a power of two, so that a zero point is its share of the range exactly


@dataclass(frozen=True)
class Pair:
    """A QuantizeLinear and the DequantizeLinear behind it."""

    scale: str  # initializers
    zero: str
    kind: str  # of the stored values
    low: int
    high: int
    axis: int | None  # of a scale per channel
    layers: tuple[str, ...]  # whose weight it quantizes
    tensor: str  # else: whose grid it is
    constant: str | None  # the initializer that it quantizes
    moves: bool  # the zero point is learnt


def across(axis: int | None, rank: int) -> list[int]:
    """The shape in which one number per channel lies along its axis."""
    return [] if axis is None else [-1 if i == axis else 1 for i in range(rank)]


def step_size(log: torch.Tensor) -> torch.Tensor:
    """The float32 step size that a learnt logarithm stands for: bit for bit the one that `written` gives.

    Libraries differ in the last bit of a float32 exponential, of a float64 one far below what float32 holds. That bit
    decides where values lie half way between two steps, as all pixels of a picture with 256 levels may.
    """
    return log.double().exp().float()


def written(log: np.ndarray) -> np.ndarray:
    """The step size as it is written into the file, in float32."""
    return np.exp(log.astype(np.float64)).astype(np.float32)


@functools.cache
def function() -> Any:
    """The fake quantizer with its gradients, as an autograd function."""
    import torch

    class FakeQuantize(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
        """Round half to even and saturate, as QuantizeLinear does, and back to real values."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, log: torch.Tensor, share: torch.Tensor, pair: Pair) -> torch.Tensor:
            shape = across(pair.axis, x.ndim)
            scale = step_size(log).reshape(shape)
            zero = (share * SPAN).round().clamp(pair.low, pair.high).reshape(shape)
            ctx.pair = pair
            ctx.save_for_backward(x, scale, zero)
            stored = (x / scale).round_().add_(zero).clamp_(pair.low, pair.high)
            return stored.sub_(zero).mul_(scale)

        @staticmethod
        def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
            x, scale, zero = ctx.saved_tensors
            pair = ctx.pair
            scaled = x / scale
            free = scaled.round().add_(zero)
            stored = free.clamp(pair.low, pair.high)
            # Its first argument where the second lies in the range, else 0: one pass instead of a mask's three.
            inside = functools.partial(
                torch.ops.aten.hardtanh_backward, min_val=pair.low - 0.5, max_val=pair.high + 0.5
            )
            # d(result) / d(scale), equation 3 of LSQ: the rounding error inside, the end of the range outside
            moved = stored.sub_(zero).sub_(inside(scaled, free)).mul_(slope)
            through = inside(slope, free)
            share = (x.numel() / scale.numel() / (1 if pair.constant else x.shape[0])) * pair.high
            of_log = (moved.sum_to_size(scale.shape) if scale.ndim else moved.sum()) * scale / share**0.5
            of_zero = None
            if pair.moves:
                of_zero = ((through.sum() - slope.sum()) * scale * SPAN / share**0.5).reshape(())
            return through, of_log.reshape(() if pair.axis is None else -1), of_zero, None

    return FakeQuantize
