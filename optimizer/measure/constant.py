"""Whether a baseline is better than one answer for everything: a drop from one that is not says nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.measure.accuracy import Metrics
from optimizer.values import Measurement


@dataclass(frozen=True, eq=False)
class Judged:
    """A baseline: its rows by metric, and the class of each example (int64) where a metric reads classes."""

    name: str
    rows: Mapping[str, np.ndarray]
    classes: np.ndarray | None


def cautions(baselines: Sequence[Judged], metrics: Metrics, measured: Sequence[Measurement]) -> list[str]:
    """One sentence per metric by which a baseline cannot be told from a constant answer.

    It cannot where the 95 % interval of its value holds what the best constant answer scores on the same examples
    (`constant` of the metric), or lies wholly on the worse side of that. The score of the constant answer is taken as
    it is, without an interval of its own: it is known, not estimated, for these examples. Metrics that know no such
    level say nothing.
    """
    found = []
    for name, (metric, _) in metrics.items():
        held = [(m, level) for one in baselines for m, level in _held(one, name, metric, measured)]
        if held:
            values = ", ".join(f"{_interval(m)} for {m.subject}" for m, _ in held)
            level = _number(held[0][1], held[0][0].unit)
            found.append(
                f"{name} does not tell the baseline from one answer for all examples, which scores {level}: it is "
                f"{values}; a drop from that says nothing"
            )
    return found


def _held(one: Judged, name: str, metric: Any, measured: Sequence[Measurement]) -> list[tuple[Measurement, float]]:
    """The value of a metric and the constant answer's, where the one is not surely better than the other."""
    level = metric.constant(one.rows[name], one.classes) if hasattr(metric, "constant") else None
    if level is None:
        return []
    own = [m for m in measured if (m.subject, m.metric, m.relation) == (one.name, name, "absolute")]
    return [(m, level) for m in own if _no_better(m, level)]


def _no_better(m: Measurement, level: float) -> bool:
    if m.better == "higher":
        return (m.value if m.low is None else m.low) <= level
    return (m.value if m.high is None else m.high) >= level


def _interval(m: Measurement) -> str:
    ends = "" if m.low is None or m.high is None else f" [{m.low:.4g}, {m.high:.4g}]"
    return f"{_number(m.value, m.unit)}{ends}"


def _number(value: float, unit: str) -> str:
    return f"{value:.4g}{' %' if unit == '%' else ''}"
