"""Quantiles of call times, and ratios of them, with intervals that know of restarts.

Calls of one process resemble each other more than calls of two processes do (allocator luck, page
placement, frequency), so calls are not the unit of replication: processes are. The bootstrap is
hierarchical: restarts are drawn with replacement, then the rounds inside each. Calls inside a block are
not drawn again: they are no independent observations, and drawing blocks carries their noise already.

A bootstrap over a handful of restarts is too narrow, because it replaces Student's t by a normal
(4 restarts: 3.18 by 1.96). The deviations are therefore stretched by that quotient, on the log scale.
Simulated with 2 to 10 restarts, with and without a difference between processes, the intervals of the
ratio then cover the truth in 94 % of the runs or more; unstretched, 4 unlike restarts give 86 %, 2 give 59 %.
The median has a sharper estimator of its own, which pairs the blocks of a round: `ratios.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

DRAWS = 2000
BINS = 2048
LEVEL = 0.95
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


def support(percentile: int) -> int:
    """How many calls a percentile needs before it may be reported.

    The largest of n calls lies above the p-quantile with probability 1 - p**n; below 95 % the sample holds no
    upper bound for it (Wilks 1941; David and Nagaraja, Order Statistics, section 7.2): 29, 59 and 299 calls
    for p90, p95 and p99. The median asks for ten, so that neither end of its interval is the extreme call.
    """
    return max(10, math.ceil(math.log(1 - LEVEL) / math.log(percentile / 100)))


@dataclass(frozen=True)
class Resamples:
    """The bootstrap draws that all subjects of one measurement share, and the level of its intervals."""

    weight: np.ndarray  # (draws, restarts * rounds), see `weights`
    seed: int = 0
    level: float = LEVEL


def weights(restarts: int, rounds: int, seed: int, draws: int = DRAWS) -> np.ndarray:
    """How often each block occurs in each bootstrap draw: (draws, restarts * rounds), rows sum to the block count.

    The same weights applied to two subjects make the draw paired: rounds are interleaved, so both saw the same
    state of the machine.
    """
    rng = np.random.default_rng(seed)
    picked = rng.multinomial(restarts, [1 / restarts] * restarts, size=draws)
    even = [1 / rounds] * rounds
    columns = [rng.multinomial(picked[:, restart] * rounds, even) for restart in range(restarts)]
    return np.concatenate(columns, axis=1).astype(np.float32)


def quantile_draws(times: np.ndarray, weight: np.ndarray, percentile: int) -> tuple[np.ndarray, float]:
    """Bootstrap draws of a percentile, and the same estimator on the data as they are.

    `times` is (restarts, rounds, calls). Times are counted in bins that hold equal shares of the calls (exact
    up to 2048 distinct values), so that a draw is one row of a matrix product instead of a sort.
    """
    blocks = times.reshape(-1, times.shape[-1])
    levels, inverse = _bins(blocks)
    counts = np.zeros((len(blocks), len(levels)), dtype=np.float32)
    np.add.at(counts, (np.arange(len(blocks))[:, None], inverse), 1)
    cumulative = np.cumsum(counts, axis=1)
    target = percentile / 100 * blocks.size * (1 - 1e-6)  # float32 sums must not miss a rank by rounding
    drawn = levels[(weight @ cumulative >= target).argmax(axis=1)]
    return drawn, float(levels[(cumulative.sum(axis=0) >= target).argmax()])


def _bins(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, inverse = np.unique(blocks, return_inverse=True)
    inverse = inverse.reshape(blocks.shape)
    if len(levels) <= BINS:
        return levels.astype(np.float64), inverse
    edges = np.unique(np.quantile(blocks, np.linspace(0, 1, BINS + 1)[1:-1], method="inverted_cdf"))
    inverse = np.searchsorted(edges, blocks, side="left")
    count = np.bincount(inverse.ravel(), minlength=len(edges) + 1)
    total = np.bincount(inverse.ravel(), weights=blocks.ravel().astype(np.float64), minlength=len(edges) + 1)
    return total / np.maximum(count, 1), inverse


def quantile(times: np.ndarray, drawing: Resamples, percentile: int) -> Estimate:
    """A percentile over all calls of (restarts, rounds, calls), in the unit of `times`."""
    drawn, center = quantile_draws(times, drawing.weight, percentile)
    return stretched(float(np.quantile(times, percentile / 100)), drawn, center, len(times), drawing.level)


def quantile_ratio(above: np.ndarray, below: np.ndarray, drawing: Resamples, percentile: int) -> Estimate:
    """The quotient of the same percentile of two subjects that were measured in the same rounds."""
    top, top_center = quantile_draws(above, drawing.weight, percentile)
    bottom, bottom_center = quantile_draws(below, drawing.weight, percentile)
    value = float(np.quantile(above, percentile / 100) / np.quantile(below, percentile / 100))
    return stretched(value, top / bottom, top_center / bottom_center, len(above), drawing.level)


def rate(times: np.ndarray, drawing: Resamples) -> Estimate:
    """Calls per unit of time spent in calls: their number over the sum of their times."""
    drawn, center = rate_draws(times, drawing.weight)
    return stretched(center, drawn, center, len(times), drawing.level)


def rate_ratio(above: np.ndarray, below: np.ndarray, drawing: Resamples) -> Estimate:
    """The quotient of the rates of two subjects that were measured in the same rounds."""
    top, top_center = rate_draws(above, drawing.weight)
    bottom, bottom_center = rate_draws(below, drawing.weight)
    value = top_center / bottom_center
    return stretched(value, top / bottom, value, len(above), drawing.level)


def rate_draws(times: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, float]:
    """Bootstrap draws of the rate, and the rate of the data as they are."""
    spent = times.reshape(-1, times.shape[-1]).sum(axis=1, dtype=np.float64)
    return times.size / (weight.astype(np.float64) @ spent), float(times.size / spent.sum())


def stretched(value: float, drawn: np.ndarray, center: float, restarts: int, level: float = LEVEL) -> Estimate:
    """The interval of the draws around `value`, widened for the small number of restarts and for the level.

    The draws tell the spread to either side at 95 %. They take a normal for Student's t, which is put right, and so is
    a level other than 95 %: the far tail of a bootstrap over a handful of processes is not there to be read.
    """
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(np.log(drawn / center), [tail, 100 - tail])
    factor = 1.0
    if restarts > 1:
        factor = student(restarts - 1, level) / student(math.inf)
    reach = 50.0  # a factor of e**50 says "unknown" as well as a larger one, and a float holds it
    low, high = max(-reach, min(0.0, factor * low)), min(reach, max(0.0, factor * high))
    return Estimate(value, value * math.exp(low), value * math.exp(high))


def of_restarts(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """The geometric mean of one positive number per restart, with Student's interval on the log scale.

    Needs two values at least: one process says nothing of the next.
    """
    logs = np.log(np.asarray(values, dtype=np.float64))
    middle = float(logs.mean())
    half = student(len(logs) - 1, level) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    # Two restarts that differ wildly ask for more than a float holds; a factor of e**50 says "unknown" as well.
    half = min(half, 50.0)
    return Estimate(math.exp(middle), math.exp(middle - half), math.exp(middle + half))


def noise_floor(values: np.ndarray) -> float:
    """The half-width of the relative difference between two subjects of this spread over restarts (A/A)."""
    half = student(len(values) - 1) * float(np.log(values).std(ddof=1)) * math.sqrt(2 / len(values))
    return math.expm1(min(half, 50.0))


def student(freedom: float, level: float = LEVEL) -> float:
    """The two-sided `level` quantile of Student's t: |t| stays below it with that probability.

    Degrees of freedom that are no whole number count as the next smaller one, which widens.
    """
    if math.isinf(freedom):
        return NormalDist().inv_cdf((1 + level) / 2)
    whole = max(1, math.floor(freedom))
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(whole, middle) < level else (low, middle)
    return math.sqrt(whole) * math.tan((low + high) / 2)


def _within(freedom: int, angle: float) -> float:
    """P(|t| < sqrt(freedom) * tan(angle)), exactly (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    even = freedom % 2 == 0
    term = total = 1.0 if even else cosine
    for k in range(2 if even else 3, freedom - 1, 2):
        term *= cosine * cosine * ((k - 1) / k)
        total += term
    if even:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))
