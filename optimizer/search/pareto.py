"""Which trials no other beats in both respects: what the objective costs, and what accuracy it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.gates import Gate
from optimizer.values import Measurement, Trial


@dataclass(frozen=True)
class Cost:
    """A measurement turned so that less is better."""

    value: float
    low: float
    high: float


def cost(found: Measurement) -> Cost:
    """What is better when higher as its reciprocal: ratios to the yardstick are above zero."""
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    if found.better == "lower":
        return Cost(found.value, low, high)
    return Cost(1 / found.value, 1 / high, 1 / low)


def harm(trial: Trial, gate: Gate) -> Measurement | None:
    """The accuracy that a gate is about, as far as it was measured of a trial."""
    wanted = (gate.metric, gate.relation)
    return next((m for m in trial.measurements if (m.metric, m.relation) == wanted), None)


def front(trials: Sequence[Trial], gate: Gate) -> list[Trial]:
    """The trials that were measured in both respects and are not dominated, the fastest first.

    One dominates another when it is at least as good in both respects and better in one; equals stay side by side.
    """
    placed = [(*place, trial) for trial in trials if (place := _place(trial, gate))]
    kept = [(a, b, t) for a, b, t in placed if not any(c <= a and d <= b and (c, d) != (a, b) for c, d, _ in placed)]
    return [trial for _, _, trial in sorted(kept, key=lambda row: row[:2])]


def _place(trial: Trial, gate: Gate) -> tuple[float, float] | None:
    lost = harm(trial, gate)
    if trial.objective is None or lost is None:
        return None
    return cost(trial.objective).value, lost.value if lost.better == "lower" else -lost.value
