"""Shares and paired differences of shares: score intervals and tests, in the standard library alone.

Planning uses them too, to say before a run what its data can resolve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

NORMAL = NormalDist()
LEVEL = 0.95
Z = NORMAL.inv_cdf((1 + LEVEL) / 2)


def critical(level: float) -> float:
    """The normal quantile of a two-sided interval at `level`."""
    return NORMAL.inv_cdf((1 + level) / 2)


def wilson(hits: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval for a share (Wilson 1927, JASA 22:209): honest near 0 and 1, unlike hits/n +- 2 sigma."""
    z = critical(level)
    share, z2 = hits / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == n else min(1.0, centre + half)
    return low, high


def share_p(hits: float, n: int, limit: float, below: bool) -> float:
    """One-sided p-value of "the share is on the wrong side of `limit`"; the score test that `wilson` inverts.

    `below`: shares up to the limit are the good side.
    """
    variance = limit * (1 - limit) / n
    if variance <= 0:
        certain = limit >= 1 if below else limit <= 0
        return 0.0 if certain else 1.0
    z = (hits / n - limit) / math.sqrt(variance)
    return NORMAL.cdf(z if below else -z)


def tango(lost: float, gained: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval for a paired difference of shares, (lost - gained) / n (Tango 1998, Stat. Med. 17:891).

    `lost`: examples only the first got right; `gained`: only the second. With no discordant example it is
    +-z^2/(n + z^2), the two-sided kin of the rule of three: n examples without a change do not prove that
    there is none. Fagerland et al. 2014 (Stat. Med. 33:2850) recommend it for its coverage.
    """
    value, z = (lost - gained) / n, critical(level)

    def score(delta: float) -> float:
        return _tango_score(lost, gained, n, delta)

    # The score falls as delta grows and is 0 at the observed value: one crossing on each side.
    low = -1.0 if lost - gained == -n else _crossing(score, z, -1.0, value)
    high = 1.0 if lost - gained == n else _crossing(score, -z, value, 1.0)
    return low, high


def noninferiority(lost: float, gained: float, n: int, margin: float) -> float:
    """One-sided p-value of "the drop is `margin` or more" (a share): Tango's score test at delta = margin.

    Below 0.025 exactly when the upper end of `tango` lies below the margin.
    """
    if margin >= 1:
        return 0.0
    return 1.0 if margin <= -1 else NORMAL.cdf(_tango_score(lost, gained, n, margin))


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p-value that losses and gains are equally likely (McNemar 1947, binomial form)."""
    n, least = lost + gained, min(lost, gained)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(least + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def unseen(n: int, level: float = LEVEL) -> float:
    """The largest share of a kind of example that n examples without one cannot exclude (Wilson's upper end at 0).

    The rule of three, 3/n (Hanley and Lippman-Hand 1983, JAMA 249:1743), is its one-sided kin.
    """
    z = critical(level)
    return z * z / (n + z * z)


def resolvable(n: int, discordant: float) -> float:
    """The smallest drop (a share) that n pairs resolve when a share `discordant` of them changes, both ways alike.

    Half the width of Tango's interval around no difference: a true drop must exceed it to be told from 0, and a
    candidate without any drop passes a gate only when the margin exceeds it.
    """
    changed = discordant * n / 2
    return tango(changed, changed, n)[1]


def _tango_score(lost: float, gained: float, n: int, delta: float) -> float:
    a = 2 * n
    b = -lost - gained + (2 * n - lost + gained) * delta
    c = -gained * delta * (1 - delta)
    q = max((math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a), 0.0)  # constrained estimate of the share gained
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
