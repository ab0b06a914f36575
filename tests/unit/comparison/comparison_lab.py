"""Runs for comparisons, made from a published record: old enough to lack what newer ones have, and real."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimizer import schema
from optimizer.comparison.compare import compare
from optimizer.comparison.pairing import pair
from optimizer.comparison.rules import rules
from optimizer.comparison.values import Comparison
from optimizer.values import Measurement, Run

PUBLISHED = Path(__file__).resolve().parents[3] / "reports" / "published"


def published(name: str = "digits-int8") -> Run:
    path = PUBLISHED / f"{name}.json"
    return schema.load_run(path.read_bytes(), str(path))


def measured(run: Run, change: Callable[[Measurement], Measurement]) -> Run:
    """The run with every measurement changed."""
    return dataclasses.replace(run, measurements=tuple(map(change, run.measurements)))


def slower(run: Run, factor: float, subject: str | None = None) -> Run:
    """The run as it would be had every call taken `factor` times as long: a known regression."""

    def change(m: Measurement) -> Measurement:
        if m.relation != "absolute" or subject not in (None, m.subject):
            return m
        if m.metric.startswith("latency."):
            scaled: dict[str, Any] = {
                k: [v * factor for v in m.protocol[k]] for k in ("restart_p50", "quantiles") if k in m.protocol
            }
            return _times(m, factor, scaled)
        return _times(m, 1 / factor, {}) if m.metric == "throughput" else m

    return measured(run, change)


def _times(m: Measurement, factor: float, protocol: dict[str, Any]) -> Measurement:
    low, high = (end if end is None else end * factor for end in (m.low, m.high))
    return dataclasses.replace(m, value=m.value * factor, low=low, high=high, protocol={**m.protocol, **protocol})


def another_day(run: Run, jitter: float = 1e-3) -> Run:
    """The same run measured again: every restart a little off, alternately up and down."""

    def change(m: Measurement) -> Measurement:
        if "restart_p50" not in m.protocol:
            return (
                m
                if m.relation != "absolute" or m.low is None
                else dataclasses.replace(m, value=math.nextafter(m.value, 0))
            )
        moved = [v * (1 + jitter * (-1) ** i) for i, v in enumerate(m.protocol["restart_p50"])]
        return dataclasses.replace(m, protocol={**m.protocol, "restart_p50": moved})

    return measured(run, change)


def compared(before: Run, after: Run, **more: Any) -> Comparison:
    known = more.pop("rules", None) or rules()
    return compare(("before", before), ("after", after), pair(before, after, more.pop("renamed", {})), known, **more)
