"""When requests arrive, and whether enough of them were answered in time.

The server scenario is an open loop: requests come at times drawn beforehand, whether or not the server keeps up,
and a latency counts from the moment at which its request was due. A closed loop would send the next request only
after the last answer, and so leave out just those that would have waited (Tene 2015, "How NOT to measure latency",
calls it coordinated omission). MLPerf's server scenario is this one: Poisson arrivals, one sample per query
(Reddi et al. 2020, ISCA, "MLPerf Inference Benchmark", section IV).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Answer = Literal["held", "missed", "undecided"]
CONFIDENCE = 0.95


def schedule(rate: float, count: int, seed: str | int) -> np.ndarray:
    """When each of `count` requests is due, in nanoseconds: a Poisson process of `rate` per second."""
    rng = np.random.default_rng(list(str(seed).encode()))
    return np.asarray(np.cumsum(rng.exponential(1e9 / rate, count)), dtype=np.int64)


def answer(late: int, count: int, percentile: int) -> Answer:
    """Whether that percentile of all requests is within the bound, from `late` of `count` requests outside it.

    Held, or missed, at 95 % confidence each by the binomial test; MLPerf's early stopping asks the same (LoadGen,
    early_stopping). No late request among 299 is the least that holds p99. Requests are taken as independent, which
    those that wait in one queue are not: the answer of one probe is firmer than it should be.
    """
    allowed = 1 - percentile / 100
    if at_most(late, count, allowed) <= 1 - CONFIDENCE:
        return "held"
    return "missed" if late and 1 - at_most(late - 1, count, allowed) <= 1 - CONFIDENCE else "undecided"


def hopeless(count: int, percentile: int) -> int:
    """So many late requests of `count` settle that the bound is missed, whatever the rest do."""
    return next(late for late in range(1, count + 1) if late == count or answer(late, count, percentile) == "missed")


def at_most(hits: int, count: int, chance: float) -> float:
    """The probability of at most `hits` out of `count`, each with the same chance (binomial)."""
    if chance <= 0:
        return 1.0
    log_odds = math.log(chance) - math.log1p(-chance)
    start = count * math.log1p(-chance)
    terms = (
        start + k * log_odds + math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(map(math.exp, terms)))
