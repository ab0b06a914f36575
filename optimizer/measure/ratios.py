"""The ratio of the medians of two subjects that took turns, with an interval that knows of processes, rounds and calls.

Two blocks of the same round were measured within milliseconds of each other and met the same machine. So the ratio is
taken there: the median call of one block over the median call of the other. A restart is worth the median of its
rounds, which one slow spell cannot move; the measurement is worth the geometric mean of its restarts, since processes
are what would be drawn anew the next time.

The bootstrap is hierarchical: restarts are drawn with replacement, inside each its rounds, inside each block its calls.
"""

from __future__ import annotations

import numpy as np

from optimizer.measure.quantiles import DRAWS, LEVEL, Estimate, stretched

METHOD = "median call of one block over the median call of the other in the same round; median over rounds, geometric \
mean over restarts; bootstrap over restarts, rounds and calls"
COPIES = 64
"""How many medians of redrawn calls are kept of each block; a draw picks one of them."""


def median_ratio(above: np.ndarray, below: np.ndarray, seed: int, level: float = LEVEL) -> Estimate:
    """Median of `above` over median of `below`, both (restarts, rounds, calls) with the same restarts and rounds."""
    rng = np.random.default_rng(seed)
    restarts, rounds = above.shape[:2]
    center = float(np.median(_log_medians(above) - _log_medians(below), axis=1).mean())
    copies = _redrawn(above, rng) - _redrawn(below, rng)[:, :, rng.permutation(COPIES)]
    restart = rng.integers(0, restarts, (DRAWS, restarts, 1))
    chosen = rng.integers(0, rounds, (DRAWS, restarts, rounds))
    drawn = copies[restart, chosen, rng.integers(0, COPIES, chosen.shape)]
    means = np.median(drawn, axis=2).mean(axis=1)
    return stretched(float(np.exp(center)), np.exp(means), float(np.exp(center)), restarts, level)


def _log_medians(times: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(np.median(times, axis=2))
    return found


def _redrawn(times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Logarithms of the medians of blocks whose calls were drawn again, (restarts, rounds, COPIES).

    The median of n calls drawn with replacement is the sorted call at n * U, where U, the median of n uniform numbers,
    has a beta distribution (David and Nagaraja 2003, Order Statistics, section 2.3): no call need be drawn.
    """
    calls = times.shape[2]
    half = (calls + 1) / 2
    ranks = rng.beta(half, half, (*times.shape[:2], COPIES)) * calls
    ordered = np.sort(times, axis=2)
    found: np.ndarray = np.log(np.take_along_axis(ordered, np.minimum(ranks.astype(int), calls - 1), axis=2))
    return found
