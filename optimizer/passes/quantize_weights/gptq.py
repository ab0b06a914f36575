"""GPTQ: weights rounded one input at a time, the error of each passed on to those that are still to be rounded.

Frantar et al., GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers, 2022
(arXiv:2210.17323), algorithm 1; inputs in the order of their size, on scales that were fixed before ("act-order" with
"static groups" in the authors' code), so that groups stay neighbours and the runtime needs no index.
"""

from __future__ import annotations

import numpy as np

from optimizer.passes.quantize_weights.grid import Grid, Quantized, Steps, nearest

DAMPING = 0.01  # share of the mean diagonal that is added to it (section 3.3, step 3)
BLOCK = 128  # inputs whose errors are passed on together (step 2)


def quantized(weights: np.ndarray, hessian: np.ndarray, grid: Grid) -> Quantized:
    """Weights (n, k) with a small error on inputs whose second moments are `hessian` (k, k).

    No row has a larger error than with round to nearest. Inputs that were always zero are rounded to nearest.
    """
    plain = nearest(weights, grid)
    if not np.trace(hessian) > 0:
        return plain
    codes = _passed_on(weights, hessian, plain.steps, grid)
    missing = plain.codes.shape[1] * grid.group - weights.shape[1]
    if missing:  # the end of the last group holds no weights: its zero points stay
        codes = np.concatenate([codes, plain.codes.reshape(len(codes), -1)[:, -missing:]], axis=1)
    found = Quantized(codes.reshape(plain.codes.shape), plain.steps, grid, weights.shape[1])
    better = losses(weights - found.dequantized(), hessian) < losses(weights - plain.dequantized(), hessian)
    chosen = np.where(better[:, None, None], found.codes, plain.codes)
    return Quantized(chosen, plain.steps, grid, weights.shape[1])


def losses(errors: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Mean squared error of each output, for weights that are off by `errors` (n, k)."""
    found: np.ndarray = np.einsum("nk,nk->n", errors @ hessian, errors)
    return found


def _passed_on(weights: np.ndarray, hessian: np.ndarray, steps: Steps, grid: Grid) -> np.ndarray:
    """The codes, int8 (n, k)."""
    width = weights.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable")
    factor = _factor(hessian[np.ix_(order, order)])
    left = weights[:, order].T.astype(np.float64)  # (k, n), one input per row
    codes = np.empty(left.shape, np.int8)
    for start in range(0, width, BLOCK):
        end = min(start + BLOCK, width)
        errors = np.empty((end - start, left.shape[1]))
        for place in range(start, end):
            group = order[place] // grid.group
            scales, zeros = steps.scales[:, group].astype(np.float64), steps.zeros[:, group]
            code = np.clip(np.floor(left[place] / scales + zeros + 0.5), grid.low, grid.high)
            codes[place] = code
            error = (left[place] - (code - zeros) * scales) / factor[place, place]
            left[place:end] -= np.outer(factor[place, place:end], error)
            errors[place - start] = error
        left[end:] -= factor[start:end, end:].T @ errors
    found = np.empty_like(codes)
    found[order] = codes
    return np.ascontiguousarray(found.T)


def _factor(hessian: np.ndarray) -> np.ndarray:
    """The upper Cholesky factor of the inverse, damped so that there is one."""
    damped = hessian + DAMPING * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    inverse = np.linalg.inv(damped)
    return np.linalg.cholesky((inverse + inverse.T) / 2).T
