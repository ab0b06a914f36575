"""What a change did to other trials, so that changes which helped elsewhere come first and those that harmed last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optimizer import fingerprint
from optimizer.search.leaders import cost
from optimizer.search.points import Point
from optimizer.values import Trial

PLAIN = 0.03  # an effect on the objective below it is none: two sessions differ by as much

Parts = frozenset[str]


def ordered(
    parent: Point, given: Sequence[Point], trials: Mapping[str, Trial], points: Mapping[str, Point]
) -> list[Point]:
    """The changes of a parent: known to help, then unknown or without effect, then known to harm; else as they were."""
    timed = {parts(points[t.name]): math.log(cost(t).value) for t in trials.values() if t.objective}
    return sorted(given, key=lambda point: _place(_effect(parts(point) - parts(parent), timed)))


def parts(point: Point) -> Parts:
    """The target, each step, each option and each setting of a point."""
    found = {f"target {point.target}"}
    for name, options in point.steps:
        found |= {f"step {name}", *(f"{name} {key} {fingerprint.canonical(value)}" for key, value in options.items())}
    return frozenset(found | {f"setting {key} {fingerprint.canonical(value)}" for key, value in point.options.items()})


def _effect(change: Parts, timed: Mapping[Parts, float]) -> float:
    """The mean effect on the logarithm of the cost, over all trials that were made with the change and without it."""
    found = [
        timed[both] - alone for own, alone in timed.items() if not change & own and (both := own | change) in timed
    ]
    return sum(found) / len(found) if found and change else 0.0


def _place(effect: float) -> float:
    return effect if abs(effect) > PLAIN else 0.0
