"""Bootstrap intervals and tests (BCa) for any statistic over examples; the score methods for shares beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from optimizer.measure.shares import LEVEL, NORMAL, Z, critical, mcnemar, tango, unseen, wilson

__all__ = [
    "RESAMPLES", "Bootstrap", "Summary", "Weighted", "Z", "bootstrap", "draws", "mcnemar", "paired",
    "standard_error", "tango", "unseen", "wilson",
]  # fmt: skip

RESAMPLES = 2000
GROUPS = 400
"""Groups of the jackknife: acceleration scales so that leaving out groups estimates the same number as leaving out
single examples, and 400 of them estimate it to about 0.001."""
TAIL = 5
"""Resamples that must lie beyond an end for its place to mean something."""
Summary = Callable[[np.ndarray], float]
Weighted = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows, counts (resamples, examples)) -> one value per resample."""


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """The bootstrap distribution of a statistic, corrected for bias and skewness (BCa: Efron 1987, JASA 82:171).

    `floor` is the least half-width of a 95 % interval: what n examples cannot see, however alike the resamples are.
    """

    value: float
    replicates: np.ndarray  # sorted
    n: int
    bias: float | None  # z0; None where BCa is degenerate, and plain percentiles are used
    acceleration: float | None
    floor: float = 0.0

    @property
    def method(self) -> str:
        """Which interval this is, in the field's terms."""
        return "BCa bootstrap" if self.bias is not None else "percentile bootstrap"

    def ends(self, level: float = LEVEL) -> tuple[float, float]:
        """The two-sided interval at a level; tails are widened for small n (see `_widening`)."""
        z = critical(level)
        if (1 - level) / 2 * len(self.replicates) < TAIL and level > LEVEL:
            # So few resamples lie beyond that their places mean little: stretch the 95 % interval instead.
            low, high = (self.value + (end - self.value) * z / Z for end in self.ends())
            return low, high
        low, high = np.quantile(self.replicates, [self._place(-z), self._place(z)])
        slack = self.floor * z / Z
        return min(float(low), self.value - slack), max(float(high), self.value + slack)

    def p_at_least(self, limit: float) -> float:
        """One-sided p-value of "the true value is `limit` or more": the tail at which the interval's end meets it.

        Below 0.025 when the upper end of `ends()` lies below the limit. Never below what the number of resamples
        can show.
        """
        count = len(self.replicates)
        below = (np.searchsorted(self.replicates, limit) + np.searchsorted(self.replicates, limit, "right")) / 2
        z = NORMAL.inv_cdf((float(below) + 0.5) / (count + 1))
        if self.bias is not None and self.acceleration is not None:
            # The levels of `_place`, solved for z: the limit is the end of which interval?
            shifted = z - self.bias
            scale = 1 + self.acceleration * shifted
            z = shifted / scale - self.bias if scale > 0 else math.copysign(10.0, shifted)
        p = NORMAL.cdf(-z / _widening(self.n))
        if self.floor:
            p = max(p, NORMAL.cdf(Z * (self.value - limit) / self.floor))
        return max(p, 1 / (count + 1)) if self.value < limit else p

    def mirrored(self) -> Bootstrap:
        """The distribution of the value with its sign turned."""
        return replace(
            self,
            value=-self.value,
            replicates=-self.replicates[::-1],
            bias=None if self.bias is None else -self.bias,
            acceleration=None if self.acceleration is None else -self.acceleration,
        )

    def _place(self, z: float) -> float:
        """Which quantile of the replicates is the end of the interval whose normal quantile is z."""
        z *= _widening(self.n)
        if self.bias is None or self.acceleration is None:
            return NORMAL.cdf(z)
        scale = 1 - self.acceleration * (self.bias + z)
        # Beyond the pole of the correction there is no end but the outermost resample.
        return NORMAL.cdf(self.bias + (self.bias + z) / scale) if scale > 0 else float(z > 0)


def bootstrap(
    rows: np.ndarray,
    summarize: Summary,
    seed: int,
    resamples: int = RESAMPLES,
    weighted: Weighted | None = None,
    corrected: bool = True,
) -> Bootstrap:
    """How `summarize(rows)` varies when examples are drawn again with replacement; same seed, same distribution.

    `weighted` computes many resamples at once, where a metric can. Rows without any spread give the value itself:
    the caller must add what n cannot see. `corrected` false: plain percentiles instead of BCa.
    """

    def values(counts: np.ndarray) -> np.ndarray:
        return _summaries(rows, counts, summarize, weighted)

    return _distribution(float(summarize(rows)), values, len(rows), seed, resamples, corrected)


def paired(
    baseline: np.ndarray,
    rows: np.ndarray,
    summarize: Summary,
    seed: int,
    resamples: int = RESAMPLES,
    weighted: Weighted | None = None,
    corrected: bool = True,
    reach: float | None = None,
) -> Bootstrap:
    """How `summarize(baseline) - summarize(rows)` varies, both on the same examples drawn together.

    Never narrower than what n examples can see: a change in a share `unseen(n)` of all examples may have gone
    unnoticed, and if those turned to noise they would move the value by that share of `reach`: how far it is from the
    baseline's value to the worst one, which is 0 unless said otherwise.
    """
    if len(baseline) != len(rows):
        raise AssertionError(f"BUG: {len(rows)} rows paired with {len(baseline)}")

    def values(counts: np.ndarray) -> np.ndarray:
        before: np.ndarray = _summaries(baseline, counts, summarize, weighted)
        drop: np.ndarray = before - _summaries(rows, counts, summarize, weighted)
        return drop

    first = float(summarize(baseline))
    floor = unseen(len(rows)) * (abs(first) if reach is None else reach)
    return _distribution(first - float(summarize(rows)), values, len(rows), seed, resamples, corrected, floor)


def standard_error(rows: np.ndarray, summarize: Summary, seed: int, weighted: Weighted | None = None) -> float:
    """Jackknife standard error of `summarize(rows)` (Efron and Tibshirani 1993, chapter 11), by groups."""
    left_out = _jackknife(lambda counts: _summaries(rows, counts, summarize, weighted), len(rows), seed)
    groups = len(left_out)
    return float(math.sqrt((groups - 1) / groups * np.sum((left_out - left_out.mean()) ** 2)))


def draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn in each resample, in blocks (resamples, n) of bounded memory."""
    generator = np.random.default_rng(seed)
    block = max(1, (1 << 19) // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, n, (size, n), dtype=np.int64)
        drawn += np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _distribution(
    value: float,
    values: Callable[[np.ndarray], np.ndarray],
    n: int,
    seed: int,
    resamples: int,
    corrected: bool,
    floor: float = 0.0,
) -> Bootstrap:
    replicates = np.sort(np.concatenate([values(counts) for counts in draws(n, resamples, seed)]))
    bias = acceleration = None
    if corrected:
        bias = _bias(replicates, value)
        acceleration = _acceleration(_jackknife(values, n, seed)) if bias is not None else None
        bias = bias if acceleration is not None else None
    return Bootstrap(value, replicates, n, bias, acceleration, floor)


def _bias(replicates: np.ndarray, value: float) -> float | None:
    """z0: how far the median of the resamples lies from the value; None where every resample is on one side."""
    tolerance = 1e-12 * max(abs(value), float(np.abs(replicates).max()))  # sums in another order
    below = np.count_nonzero(replicates < value - tolerance)
    ties = np.count_nonzero(np.abs(replicates - value) <= tolerance)
    share = (below + ties / 2) / len(replicates)
    return NORMAL.inv_cdf(share) if 0 < share < 1 and ties < len(replicates) else None


def _acceleration(left_out: np.ndarray) -> float | None:
    """a: a sixth of the skewness of the influence of examples; None where nothing has influence."""
    influence: np.ndarray = left_out.mean() - left_out
    spread = float(np.sum(influence**2))
    if spread <= len(left_out) * (1e-12 * float(np.abs(left_out).max(initial=0.0))) ** 2:
        return None
    return float(np.sum(influence**3) / (6 * spread**1.5))


def _jackknife(values: Callable[[np.ndarray], np.ndarray], n: int, seed: int) -> np.ndarray:
    """The statistic with each group of examples left out, in blocks of bounded memory.

    Up to GROUPS examples every group is one example. Groups are drawn, since examples may be sorted by class.
    """
    groups = min(n, GROUPS)
    member = np.random.default_rng(seed).permutation(n) % groups
    block = max(1, (1 << 19) // n)
    parts = [
        values((member[None, :] != np.arange(start, min(start + block, groups))[:, None]).astype(np.float64))
        for start in range(0, groups, block)
    ]
    return np.concatenate(parts)


def _summaries(rows: np.ndarray, counts: np.ndarray, summarize: Summary, weighted: Weighted | None) -> np.ndarray:
    if weighted is not None:
        return weighted(rows, counts)
    return np.array([summarize(np.repeat(rows, c.astype(np.int64), axis=0)) for c in counts])


def _widening(n: int) -> float:
    """Factor on the normal quantile that makes up for small n (Hesterberg 2015, Am. Stat. 69:371).

    The bootstrap's spread is too small by sqrt((n - 1) / n), and the normal quantile stands where Student's t of
    n - 1 degrees is due. One factor, that of the 95 % interval, serves every level, so that p-values and
    intervals are inverses of each other.
    """
    nu = max(n - 1, 1)
    z = Z  # Student's t from the normal quantile, Abramowitz and Stegun 26.7.5
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return t / z * math.sqrt(n / nu)
