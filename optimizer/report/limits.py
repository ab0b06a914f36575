"""The thresholds of a run's gates, where they can be drawn into a chart."""

from __future__ import annotations

import re

from optimizer.report.charts import Limit
from optimizer.values import Run

GATE = re.compile(
    r"(?P<metric>[\w.]+)\s+(?:(?P<relation>drop|speedup|ratio)\s*)?(?P<sign><=|>=|<|>)\s*(?P<value>\d+(?:\.\d+)?)"
    r"\s*(?P<unit>pp|%|x|ms)?"
)


def limits(run: Run, metric: str, relation: str) -> list[Limit]:
    """The limits that gates of the run set on a quantity, each once; a gate of another form draws nothing."""
    found = {}
    for text in dict.fromkeys(v.gate for v in run.verdicts):
        gate = GATE.match(text)
        if gate and gate["metric"] == metric and (gate["relation"] or "absolute") == relation:
            found[text] = Limit(float(gate["value"]), gate["sign"].startswith("<"), text)
    return list(found.values())
