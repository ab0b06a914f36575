"""What a chart's row shows of a candidate: its measurement as positions and in words."""

from __future__ import annotations

import math

from optimizer.report import numerals
from optimizer.report.charts import Datum
from optimizer.report.index import Index, Setting
from optimizer.values import Candidate, Measurement


def rows(found: Index, metric: str, relation: str = "absolute", setting: Setting | None = None) -> list[Datum]:
    """A row for every candidate that was built, so that two charts side by side have the same rows."""
    return [datum(found, c, found.get(c.name, metric, relation, setting), relation) for c in found.built()]


def datum(found: Index, c: Candidate, m: Measurement | None, relation: str = "absolute") -> Datum:
    colour = found.targets.index(c.target)
    if m is None or not math.isfinite(m.value):
        origin = relation != "absolute" and found.is_baseline(c)
        text = "baseline" if origin else numerals.ABSENT
        return Datum(c.variant, c.target, colour, None, None, None, text, origin=origin)
    return Datum(c.variant, c.target, colour, m.value, m.low, m.high, numerals.quantity(m), numerals.interval(m))
