"""Axes: where a value lies, in percent of a plot's width, and which round values are labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.report import numerals

CROWDED = 20.0
"""A latency axis that spans more than this factor is logarithmic."""
PAD = 3.0  # percent kept free at both ends, so that no mark is cut


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low` to `high`; values beyond it are drawn at its end."""

    low: float
    high: float
    log: bool = False
    pad: float = PAD

    def at(self, value: float) -> float:
        """The position of a value in percent of the plot's width, clamped to the plot."""
        low, high, x = (math.log(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        share = (x - low) / (high - low) if high > low else 0.5
        return round(self.pad + (100 - 2 * self.pad) * min(max(share, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Tick:
    """A labelled position on the axis."""

    x: float
    label: str


def labelled(scale: Scale, unit: str) -> tuple[Tick, ...]:
    """The labelled positions of an axis."""
    return tuple(Tick(scale.at(v), numerals.tick(v, unit)) for v in ticks(scale))


def clipped(values: Sequence[float], anchors: Sequence[float]) -> list[float]:
    """Values without those so far out that the others, around the anchors, would become one blot."""
    reach = 6 * max((abs(a) for a in anchors), default=0.0)
    near = [v for v in values if abs(v) <= reach]
    return near if reach and near and max(map(abs, values)) > 2 * reach else list(values)


def fitted(values: Sequence[float], anchors: Sequence[float], log: bool) -> Scale:
    everything = [*values, *anchors]
    low, high = min(everything), max(everything)
    if log and low > 0:
        return Scale(low / 1.12, high * 1.12, True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - room, high + room)


def ticks(scale: Scale) -> list[float]:
    if scale.log:
        return _log_ticks(scale)
    step = _step((scale.high - scale.low) / 6)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _step(least: float) -> float:
    """The smallest round step that is not below `least`: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _log_ticks(scale: Scale) -> list[float]:
    decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for multiples in ((1, 1.5, 2, 3, 4, 6, 8), (1, 2, 4, 8), (1, 2, 5), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples]
        inside = [float(f"{v:.10g}") for v in found if scale.low <= v <= scale.high]
        if len(inside) <= 7:
            return inside
    return [10.0**d for d in decades if scale.low <= 10.0**d <= scale.high]
