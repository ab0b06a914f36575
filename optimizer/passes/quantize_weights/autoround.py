"""AutoRound: rounding and the ends of each group's grid are learnt together, by the signs of their gradients.

Cheng et al., Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs, 2023
(arXiv:2309.05516), section 3: a weight moves by up to half a step before it is rounded, the extremes of its group
shrink by factors, and 200 steps of signed gradient descent, whose rate falls linearly from 1 / steps, make the error
of the outputs small. Gradients pass through rounding as if it were not there.

Where the paper draws batches for a whole block of layers, a layer's own second moments stand for all of its inputs:
the error of an output is a quadratic form in them. So nothing is drawn, the gradient is exact, and of each output the
best step is kept, the first being round to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optimizer.passes.quantize_weights.gptq import losses
from optimizer.passes.quantize_weights.grid import Grid, Quantized, Steps, between, ends, grouped, nearest, restored

STEPS = 200
LEAST = 0.1  # of the extremes that a group keeps: no useful grid is smaller
TOGETHER = 1 << 19  # weights that are learnt at a time: their arrays stay in the caches


def quantized(weights: np.ndarray, hessian: np.ndarray, grid: Grid) -> Quantized:
    """Weights (n, k) with a small error on inputs whose second moments are `hessian` (k, k).

    No row has a larger error than with round to nearest. The same arguments give the same codes: nothing is random.
    """
    plain = nearest(weights, grid)
    if not np.trace(hessian) > 0:
        return plain
    width = weights.shape[1]
    padded = plain.codes.shape[1] * grid.group  # the end of the last group moves no output
    moments = np.zeros((padded, padded), np.float32)
    moments[:width, :width] = hessian / np.trace(hessian)  # only signs count, and float32 must hold them
    groups, rows = grouped(weights, grid.group), max(1, TOGETHER // padded)
    parts = [_learnt(groups[start : start + rows], moments, grid) for start in range(0, len(groups), rows)]
    codes, scales, zeros = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    found = Quantized(codes, Steps(scales, zeros), grid, width)
    # Counted again in float64.
    better = losses(weights - found.dequantized(), hessian) < losses(weights - plain.dequantized(), hessian)
    codes = np.where(better[:, None, None], codes, plain.codes)
    scales = np.where(better[:, None], scales, plain.steps.scales)
    zeros = np.where(better[:, None], zeros, plain.steps.zeros)
    return Quantized(codes, Steps(scales, zeros), grid, width)


@dataclass
class _Tuning:
    """What is learnt of groups (n, groups, group): offsets in steps, and what both extremes are multiplied by."""

    offsets: np.ndarray
    low: np.ndarray  # (n, groups), and so is `high`; of a symmetric grid they are one
    high: np.ndarray

    def descend(self, slopes: np.ndarray, low: np.ndarray, high: np.ndarray, rate: float) -> None:
        """One step against the signs of the slopes."""
        self.offsets = np.clip(self.offsets - np.float32(rate) * np.sign(slopes), -0.5, 0.5)
        self.low = np.clip(self.low - rate * np.sign(low), LEAST, 1)
        self.high = np.clip(self.high - rate * np.sign(high), LEAST, 1)


def _learnt(groups: np.ndarray, moments: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and zero points of the step with the least error, row by row."""
    low, high = ends(groups)
    ones = np.ones(low.shape)
    tuning = _Tuning(np.zeros_like(groups), ones, ones)
    least = np.full(len(groups), np.inf, np.float32)
    codes, steps = np.empty(groups.shape, np.int8), between(low, high, grid)
    best = codes, steps.scales.copy(), steps.zeros.copy()
    for number in range(STEPS):
        steps = between(tuning.low * low, tuning.high * high, grid)
        scaled = groups / steps.scales[..., None]
        wanted = np.floor(scaled + tuning.offsets + (steps.zeros[..., None] + np.float32(0.5)))
        now = np.clip(wanted, grid.low, grid.high)
        codes = now.astype(np.int8)
        errors = restored(codes, steps) - groups
        slopes = (errors.reshape(len(groups), -1) @ moments).reshape(groups.shape)
        loss = np.einsum("ngk,ngk->n", slopes, errors)
        better = loss < least
        least[better] = loss[better]
        for kept, new in zip(best, (codes, steps.scales, steps.zeros), strict=True):
            kept[better] = new[better]
        inside = now == wanted
        towards = _ends_slopes(slopes, scaled, codes, inside, steps, (tuning.low * low, low, high), grid)
        tuning.descend(slopes * inside * steps.scales[..., None], *towards, (1 - number / STEPS) / STEPS)
    return best


def _ends_slopes(
    slopes: np.ndarray,
    scaled: np.ndarray,
    codes: np.ndarray,
    inside: np.ndarray,
    steps: Steps,
    extremes: tuple[np.ndarray, np.ndarray, np.ndarray],
    grid: Grid,
) -> tuple[np.ndarray, np.ndarray]:
    """The slopes (n, groups) of the error in the factors of the lower and the upper extreme.

    A weight is (code - zero) * scale; what is clipped has a code that does not follow, the others' follow both.
    """
    by_scale = codes.astype(np.float32) - steps.zeros[..., None] - scaled * inside
    along_scale = np.einsum("ngk,ngk->ng", slopes, by_scale)
    if grid.symmetric:  # the scale is in proportion to the one factor
        return along_scale * steps.scales, along_scale * steps.scales
    now, low, high = extremes
    levels = grid.high - grid.low
    along_zero = -steps.scales * (slopes * ~inside).sum(axis=-1)
    # zero = lowest code - factor * low / scale, and scale = (factor * high - factor * low) / levels
    along_scale = along_scale + along_zero * now / steps.scales**2
    return along_scale * -low / levels - along_zero * low / steps.scales, along_scale * high / levels
