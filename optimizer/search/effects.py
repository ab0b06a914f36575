"""What a change did to other trials, so that changes which helped elsewhere come first and those that harmed last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from optimizer import fingerprint
from optimizer.search.leaders import cost
from optimizer.search.points import Point
from optimizer.values import Trial

PLAIN = 0.03  # an effect on the objective below it is none: two sessions differ by as much
LITTLE = PLAIN / 2  # where a change without effect stands: behind what is not known, before what harms

Parts = frozenset[str]


def ordered(
    parent: Point, given: Sequence[Point], trials: Mapping[str, Trial], points: Mapping[str, Point]
) -> list[Point]:
    """The changes of a parent: known to help, unknown, known to do little, known to harm, known to change no file."""
    seen = {parts(points[t.name]): t for t in trials.values() if t.digest}
    return sorted(given, key=lambda point: _place(parts(point) - parts(parent), seen))


def parts(point: Point) -> Parts:
    """The target, each step, each option and each setting of a point."""
    found = {f"target {point.target}"}
    for name, options in point.steps:
        found |= {f"step {name}", *(f"{name} {key} {fingerprint.canonical(value)}" for key, value in options.items())}
    return frozenset(found | {f"setting {key} {fingerprint.canonical(value)}" for key, value in point.options.items()})


def _place(change: Parts, seen: Mapping[Parts, Trial]) -> float:
    """The mean effect on the logarithm of the cost, over all trials that were made with the change and without it."""
    if not change:
        return 0.0
    pairs = [(seen[own], seen[both]) for own in seen if not change & own and (both := own | change) in seen]
    if any(alone.digest == other.digest for alone, other in pairs):
        return math.inf  # a rewrite that finds nothing to do in this model finds it nowhere
    timed = [(alone, other) for alone, other in pairs if alone.objective and other.objective]
    effects = [math.log(cost(other).value / cost(alone).value) for alone, other in timed]
    effect = sum(effects) / len(effects) if effects else 0.0
    return effect if abs(effect) > PLAIN or not effects else LITTLE
