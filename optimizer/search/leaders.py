"""Which trials stand out: the best of each target, what comes closest, and what is worth changing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optimizer.search import pareto
from optimizer.search.standing import ORDER
from optimizer.values import Trial

CONFIDENT = ORDER[:2]  # standings that the evaluation data will most likely confirm


def cost(trial: Trial) -> pareto.Cost:
    """A timed trial by the objective."""
    if trial.objective is None:
        raise AssertionError(f"BUG: {trial.name} was not measured")
    return pareto.cost(trial.objective)


def able(trials: Sequence[Trial], target: str) -> list[Trial]:
    """What meets the gates on a target, the best by the pessimistic end of its objective first.

    Where the evaluation data will most likely confirm some of them, only those.
    """
    found = [t for t in trials if t.target == target and t.objective and t.standing not in (None, "broken")]
    likely = [t for t in found if t.standing in CONFIDENT]
    return sorted(likely or found, key=lambda t: (cost(t).high, _milliseconds(t)))


def incumbent(trials: Sequence[Trial], target: str) -> Trial | None:
    """The best that meets the gates on a target."""
    return next(iter(able(trials, target)), None)


def best(trials: Sequence[Trial]) -> list[Trial]:
    """Per target the best that meets the gates, the best of all first; empty where nothing does."""
    found = [t for target in _targets(trials) if (t := incumbent(trials, target))]
    return sorted(found, key=_rank)


def closest(trials: Sequence[Trial]) -> Trial | None:
    """What comes nearest to meeting the gates."""
    broken = [t for t in trials if t.standing == "broken" and t.objective]
    return min(broken, key=lambda t: (t.excess, cost(t).value), default=None)


def parents(trials: Sequence[Trial]) -> list[Trial]:
    """Per target the best, the least broken of what is faster, and the best of another kind; targets take turns."""
    found = [_of_target(trials, target) for target in _targets(trials)]
    longest = max(map(len, found), default=0)
    return [own[place] for place in range(longest) for own in found if place < len(own)]


def _of_target(trials: Sequence[Trial], target: str) -> list[Trial]:
    own = sorted((t for t in trials if t.target == target and t.standing and t.objective), key=_rank)
    top = incumbent(trials, target)
    fast = [t for t in own if t.standing == "broken" and (top is None or cost(t).value < cost(top).value)]
    other = [t for t in own if t.standing != "broken" and top and _kind(t) != _kind(top)]
    return [*([top] if top else []), *sorted(fast, key=lambda t: t.excess)[:1], *other[:1]]


def _targets(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(t.target for t in trials))


def _rank(trial: Trial) -> tuple[bool, float]:
    """What will most likely be confirmed first, then by the objective."""
    return trial.standing not in CONFIDENT, cost(trial).high


def _milliseconds(trial: Trial) -> float:
    """The median latency: of equals by the objective (files of one size), the faster one is better."""
    found = (m.value for m in trial.measurements if (m.metric, m.relation) == ("latency.p50", "absolute"))
    return next(found, math.inf)


def _kind(trial: Trial) -> tuple[str, ...]:
    """The steps of a trial without their options."""
    steps = trial.variant["steps"] if isinstance(trial.variant, dict) else trial.variant
    return tuple(step if isinstance(step, str) else next(iter(step)) for step in steps)
