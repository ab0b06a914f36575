"""The thresholds of a run's gates, where they can be drawn into a chart."""

from __future__ import annotations

import contextlib

from optimizer import gates
from optimizer.errors import OptimizerError
from optimizer.report.charts import Limit
from optimizer.values import Run


def limits(run: Run, metric: str, relation: str) -> list[Limit]:
    """The limits that gates for all candidates set on a quantity, each once.

    A gate for one variant, target or batch size is left to the table of gates: its line would stand for all rows.
    """
    found = []
    for gate in judged(run):
        narrowed = gate.variant or gate.target or gate.batch
        if gate.metric == metric and gate.relation == relation and not narrowed:
            found.append(Limit(gate.threshold, gate.below, gate.text))
    return found


def judged(run: Run) -> list[gates.Gate]:
    """The gates that a run has verdicts of, each once."""
    found = []
    for text in dict.fromkeys(verdict.gate for verdict in run.verdicts):
        with contextlib.suppress(OptimizerError):  # a run record from elsewhere may say anything
            found.append(gates.parse(text))
    return found
