"""Intervals at 95 %: for a share, for a paired difference of shares, and by bootstrap for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

Z = NormalDist().inv_cdf(0.975)
RESAMPLES = 2000
Summary = Callable[[np.ndarray], float]
Weighted = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(rows, counts (resamples, examples)) -> one value per resample."""


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Score interval for a share (Wilson 1927, JASA 22:209): honest near 0 and 1, unlike hits/n +- 2 sigma."""
    share, z2 = hits / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return low, high


def tango(lost: int, gained: int, n: int) -> tuple[float, float]:
    """Score interval for a paired difference of shares, (lost - gained) / n (Tango 1998, Stat. Med. 17:891).

    `lost`: examples only the first got right; `gained`: only the second. With no discordant example it is
    +-z^2/(n + z^2), the two-sided kin of the rule of three: n examples without a change do not prove that
    there is none. Fagerland et al. 2014 (Stat. Med. 33:2850) recommend it for its coverage.
    """
    value = (lost - gained) / n

    def score(delta: float) -> float:
        return _tango_score(lost, gained, n, delta)

    # The score falls as delta grows and is 0 at the observed value: one crossing on each side.
    low = -1.0 if lost - gained == -n else _crossing(score, Z, -1.0, value)
    high = 1.0 if lost - gained == n else _crossing(score, -Z, value, 1.0)
    return low, high


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value that losses and gains are equally likely (McNemar 1947, binomial form)."""
    n, least = lost + gained, min(lost, gained)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def unseen(n: int) -> float:
    """The largest share of a kind of example that n examples without one cannot exclude (Wilson's upper end at 0).

    The rule of three, 3/n (Hanley and Lippman-Hand 1983, JAMA 249:1743), is its one-sided kin.
    """
    return Z * Z / (n + Z * Z)


def bootstrap(
    rows: np.ndarray, summarize: Summary, seed: int, resamples: int = RESAMPLES, weighted: Weighted | None = None
) -> tuple[float, float]:
    """Interval of `summarize(rows)` when examples are drawn again with replacement; same seed, same interval.

    `weighted` computes many resamples at once, where a metric can. Percentiles are widened for small n
    (see `_level`). Rows without any spread give the value itself: the caller must add what n cannot see.
    """
    values = np.concatenate([_summaries(rows, c, summarize, weighted) for c in draws(len(rows), resamples, seed)])
    return _percentiles(values, len(rows))


def paired(
    baseline: np.ndarray,
    rows: np.ndarray,
    summarize: Summary,
    seed: int,
    resamples: int = RESAMPLES,
    weighted: Weighted | None = None,
) -> tuple[float, float]:
    """Interval of `summarize(baseline) - summarize(rows)`, both on the same examples drawn together.

    Never narrower than what n examples can see: a change in a share `unseen(n)` of all examples may have gone
    unnoticed, and if those turned to noise they would move the value by that share of it.
    """
    if len(baseline) != len(rows):
        raise AssertionError(f"BUG: {len(rows)} rows paired with {len(baseline)}")
    parts = [
        _summaries(baseline, c, summarize, weighted) - _summaries(rows, c, summarize, weighted)
        for c in draws(len(rows), resamples, seed)
    ]
    low, high = _percentiles(np.concatenate(parts), len(rows))
    first = summarize(baseline)
    value, floor = first - summarize(rows), unseen(len(rows)) * abs(first)
    return min(low, value - floor), max(high, value + floor)


def draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n examples is drawn in each resample, in blocks (resamples, n) of bounded memory."""
    generator = np.random.default_rng(seed)
    block = max(1, (1 << 19) // n)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = generator.integers(0, n, (size, n), dtype=np.int64)
        drawn += np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _summaries(rows: np.ndarray, counts: np.ndarray, summarize: Summary, weighted: Weighted | None) -> np.ndarray:
    if weighted is not None:
        return weighted(rows, counts)
    return np.array([summarize(np.repeat(rows, c.astype(np.int64), axis=0)) for c in counts])


def _percentiles(values: np.ndarray, n: int) -> tuple[float, float]:
    tail = _level(n)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _level(n: int) -> float:
    """Tail of the percentile interval, smaller for small n (Hesterberg 2015, Am. Stat. 69:371).

    The bootstrap's spread is too small by sqrt((n - 1) / n), and the normal quantile where t is due.
    """
    nu = max(n - 1, 1)
    z = Z  # Student's t from the normal quantile, Abramowitz and Stegun 26.7.5
    t = z + (z**3 + z) / (4 * nu) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
    return NormalDist().cdf(-t * math.sqrt(n / nu))


def _tango_score(lost: int, gained: int, n: int, delta: float) -> float:
    a = 2 * n
    b = -lost - gained + (2 * n - lost + gained) * delta
    c = -gained * delta * (1 - delta)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # constrained estimate of the share gained
    variance = n * (2 * q + delta * (1 - delta))
    distance = lost - gained - n * delta
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _crossing(score: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where a falling function meets `level`, by bisection."""
    for _ in range(80):
        middle = (low + high) / 2
        if score(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2
