"""The noise floor: how far a baseline lies from itself when it is measured twice in one session."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optimizer.report.index import Index, Setting
from optimizer.values import Candidate, Measurement


@dataclass(frozen=True)
class Floor:
    """The range of ratios that this session also gives for a baseline against itself."""

    low: float
    high: float
    baseline: str
    twin: Measurement | None  # the A/A measurement; None where the run recorded only the width

    @property
    def width(self) -> float:
        """The larger of both distances from 1, relative."""
        return max(1 / self.low, self.high) - 1

    def touches(self, m: Measurement) -> bool:
        """Whether a ratio's interval reaches into the noise, so that it may be no difference at all."""
        low, high = (m.value if end is None else end for end in (m.low, m.high))
        return low <= self.high and high >= self.low

    def holds(self, m: Measurement) -> bool:
        """Whether the ratio itself is no larger than the noise."""
        return self.low <= m.value <= self.high


def floor(found: Index, candidate: Candidate, setting: Setting) -> Floor | None:
    """The noise floor of what a candidate is compared with; None where the session did not measure it."""
    speedup = found.get(candidate.name, "latency.p50", "speedup", setting)
    name = speedup.against if speedup and speedup.against else candidate.name if found.is_baseline(candidate) else None
    if name is None:
        return None
    twin = found.get(name, "latency.aa", "speedup", setting)
    if twin is not None:
        ends = [v for v in (twin.low, twin.high, twin.value) if v is not None and v > 0 and math.isfinite(v)]
        if ends:
            return _around(max(max(v, 1 / v) for v in ends), name, twin)
    median = found.get(name, "latency.p50", "absolute", setting)
    recorded = median.protocol.get("noise_floor") if median else None
    if isinstance(recorded, int | float) and math.isfinite(recorded) and recorded > 0:
        return _around(1 + recorded, name, None)
    return None


def _around(factor: float, name: str, twin: Measurement | None) -> Floor:
    """A band that is symmetric in the ratio: as much slower as faster."""
    return Floor(1 / factor, factor, name, twin)
