"""HQQ: scales and zero points that serve most weights of a group well and a few outliers less.

Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023
(mobiusml.github.io/hqq_blog): the error is measured by an lp norm with p < 1 and split into two simple problems,
which alternate: shrink the errors (outliers keep theirs), then fit the grid to what is left.

Two differences. Their zero points are floats; the fast kernels take integers, so zero points are rounded and the
scale is fitted along. Their shrinkage depends on the unit of the weights; here errors are counted in steps.
"""

from __future__ import annotations

import numpy as np

from optimizer.passes.quantize_weights.grid import Grid, Quantized, Steps, grouped, restored, rounded, spanned

POWER = 0.7  # p of the norm; this and the next three are the authors' defaults
BETA, GROWTH = 10.0, 1.01
ROUNDS = 20


def quantized(weights: np.ndarray, grid: Grid) -> Quantized:
    """Weights (n, k) on the best grids found; no group has a larger lp error than with round to nearest."""
    groups = grouped(weights, grid.group)
    best = steps = spanned(groups, grid)
    least = np.full(steps.scales.shape, np.inf)
    for number in range(ROUNDS):
        codes = rounded(groups, steps, grid)
        errors = groups - restored(codes, steps)
        losses = (np.abs(errors) ** POWER).sum(axis=-1)
        better = losses < least
        least = np.where(better, losses, least)
        best = Steps(np.where(better, steps.scales, best.scales), np.where(better, steps.zeros, best.zeros))
        steps = _fitted(groups, codes, errors, steps, grid, BETA * GROWTH**number)
    return Quantized(rounded(groups, best, grid), best, grid, weights.shape[1])


def _fitted(groups: np.ndarray, codes: np.ndarray, errors: np.ndarray, steps: Steps, grid: Grid, beta: float) -> Steps:
    """The steps of least squares for these codes, once outliers are allowed their errors."""
    scales = steps.scales[..., None]
    wanted = groups - scales * _shrunk(errors / scales, beta)
    zeros = steps.zeros
    if not grid.symmetric:
        middle = np.rint((codes - wanted / scales).mean(axis=-1))
        zeros = np.clip(middle, grid.low, grid.high).astype(np.int8)
    centred = codes.astype(np.float32) - zeros[..., None]
    squares = (centred**2).sum(axis=-1)
    fitted = (centred * wanted).sum(axis=-1) / np.where(squares > 0, squares, 1)
    usable = np.isfinite(fitted) & (np.abs(fitted) >= np.finfo(np.float32).tiny)
    return Steps(np.where(usable, fitted, steps.scales).astype(np.float32), zeros)


def _shrunk(errors: np.ndarray, beta: float) -> np.ndarray:
    """The proximal step of the lp norm (generalized soft-thresholding, Badri and Shaji, equation 4)."""
    sizes = np.abs(errors)
    with np.errstate(divide="ignore"):  # an error of zero has an infinite threshold, and stays zero
        found: np.ndarray = np.sign(errors) * np.maximum(sizes - sizes ** (POWER - 1) / beta, 0)
    return found
