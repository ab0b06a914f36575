"""AWQ: inputs that are large get finer weights, by a factor that is taken out of the input again.

Lin et al., AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration, 2023 (arXiv:2306.00978),
section 3.2: the factors are powers of the inputs' sizes, and the exponent is searched. The size of an input is its root
mean square here, which the Hessian holds, where the paper takes its mean magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.passes.quantize_weights.gptq import losses
from optimizer.passes.quantize_weights.grid import Grid, Quantized, nearest

STEPS = 20  # exponents tried between 0, which is round to nearest, and 1


@dataclass(frozen=True)
class Scaled:
    """Layers that read one input, quantized together; `factors` (k,) divide that input, None where nothing is won."""

    layers: tuple[Quantized, ...]
    factors: np.ndarray | None
    loss: float  # mean squared error of their outputs, summed


def quantized(layers: Sequence[np.ndarray], hessian: np.ndarray, grid: Grid) -> Scaled:
    """The weights (n, k) of layers that read the same input, whose second moments are `hessian` (k, k).

    The error of their outputs is never larger than with round to nearest, which is tried first.
    """
    tried = (_scaled(layers, hessian, grid, number / STEPS) for number in range(STEPS))
    return min(tried, key=lambda found: found.loss)


def _scaled(layers: Sequence[np.ndarray], hessian: np.ndarray, grid: Grid, exponent: float) -> Scaled:
    factors = _factors(hessian, exponent)
    found = tuple(nearest(weights * factors, grid) for weights in layers)
    off = (w - q.dequantized() / factors for w, q in zip(layers, found, strict=True))
    return Scaled(found, factors if exponent else None, float(sum(losses(e, hessian).sum() for e in off)))


def _factors(hessian: np.ndarray, exponent: float) -> np.ndarray:
    """float32 (k,); the largest and the smallest are each other's inverse, inputs that were always zero get 1."""
    sizes = np.sqrt(np.maximum(np.diag(hessian), 0))
    alive = sizes > 0
    found = np.ones(len(sizes))
    if alive.any():
        powers = np.maximum(sizes[alive] / sizes.max(), 1e-4) ** exponent
        found[alive] = powers / np.sqrt(powers.max() * powers.min())
    return found.astype(np.float32)
