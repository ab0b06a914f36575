"""Intervals of a change between two sessions that knew nothing of each other.

Median latency: the medians of the restarts are the observations, since calls of one process resemble each other
(Kalibera and Jones 2013, ISMM, "Rigorous benchmarking in reasonable time"). Their logarithms are compared by
Welch's interval for unequal variances (Welch 1947, Biometrika 34:28), so that the result is a ratio.

Everything else that has an interval of its own (throughput, load time, accuracy on other examples): the square-and-add
interval of a difference from the two single ones (MOVER; Newcombe 1998, Stat. Med. 17:873, method 10; Zou and
Donner 2008, Stat. Med. 27:1693). It needs no symmetry, and is as good as the two intervals that go in.

Timings are then widened by the A/A noise floors of both sessions: the relative difference that two identical
artifacts showed there. They stand for what differs between two days and is not in the spread of either, and are
independent of it, so squares are added. What changes between days beyond that (another kernel, another neighbour)
no two separate sessions can tell from a change of the model; one interleaved session can (--rerun).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from optimizer.measure.quantiles import Estimate, student

SESSIONS = "geometric means of the restarts' medians, Welch's interval on the log scale"
TWO_INTERVALS = "square-and-add of both 95 % intervals (MOVER)"
FLOORS = ", widened by the A/A noise floors"


def of_restarts(before: Sequence[float], after: Sequence[float], floors: Iterable[float] = ()) -> Estimate:
    """The ratio after / before of positive numbers, one per restart, with its 95 % interval.

    Both need two restarts at least: one process says nothing of the next.
    """
    one, other = np.log(np.asarray(before, np.float64)), np.log(np.asarray(after, np.float64))
    parts = [float(x.var(ddof=1)) / len(x) for x in (one, other)]
    half = 0.0
    if sum(parts) > 0:
        # Satterthwaite's degrees of freedom, rounded down: never narrower than they allow.
        freedom = sum(parts) ** 2 / sum(p * p / (len(x) - 1) for p, x in zip(parts, (one, other), strict=True))
        half = student(max(1, math.floor(freedom))) * math.sqrt(sum(parts))
    return widened(float(other.mean() - one.mean()), half, half, floors)


def of_intervals(before: Estimate, after: Estimate, floors: Iterable[float] = ()) -> Estimate:
    """The ratio after / before of two positive numbers with intervals of their own."""
    a, b = ([math.log(v) for v in (e.low, e.value, e.high)] for e in (before, after))
    return widened(b[1] - a[1], math.hypot(b[1] - b[0], a[2] - a[1]), math.hypot(b[2] - b[1], a[1] - a[0]), floors)


def widened(value: float, below: float, above: float, floors: Iterable[float]) -> Estimate:
    """exp(value) with its interval, both halves grown by relative noise floors; all on the log scale."""
    more = [math.log1p(floor) for floor in floors]
    # A factor of e**50 says "unknown" as well as more would, and is still a float.
    low, high = (min(math.hypot(half, *more), 50.0) for half in (below, above))
    return Estimate(math.exp(value), math.exp(value - low), math.exp(value + high))


def difference(before: Estimate, after: Estimate) -> Estimate:
    """before - after of two independent numbers with intervals of their own."""
    value = before.value - after.value
    low = value - math.hypot(before.value - before.low, after.high - after.value)
    high = value + math.hypot(before.high - before.value, after.value - after.low)
    return Estimate(value, low, high)
