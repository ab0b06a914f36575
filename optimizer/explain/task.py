"""The task metric of variants on one part of the data, each paired with the float model's rows."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimizer.explain.subject import Part
from optimizer.explain.variants import Variants
from optimizer.measure import accuracy
from optimizer.protocols import Batch, Session
from optimizer.values import Measurement


@dataclass
class Task:
    """One metric on one part of the data. What was evaluated once is remembered."""

    name: str  # of the metric
    metric: tuple[Any, Any]
    data: Part
    batch: int
    against: str
    machine: str
    seed: int
    known: dict[object, np.ndarray] = field(default_factory=dict)

    def rows(self, variants: Variants, kept: Set[str]) -> np.ndarray:
        """Rows per example of the variant with these layers in float, in the target's own kernels."""
        key = variants.same(kept)
        if key not in self.known:
            with variants.real(kept) as session:
                self.known[key] = self.run(session)
        return self.known[key]

    def run(self, session: Session) -> np.ndarray:
        """Rows per example of any session."""
        found = accuracy.evaluate(session, self.data, {self.name: self.metric}, self.batch, lambda done, total: None)
        return found[self.name]

    def measurement(self, subject: str, rows: np.ndarray, baseline: np.ndarray) -> Measurement:
        """The paired drop against the baseline; for a metric that compares with it (agreement) its value."""
        found = accuracy.measurements(
            subject,
            {self.name: rows},
            {self.name: self.metric},
            (self.against, {self.name: baseline}),
            self.machine,
            self.seed,
            {"data": self.data.name, "batch": self.batch},
        )
        drops = [m for m in found if m.relation == "drop"]
        return (drops or [m for m in found if m.metric == self.name])[0]

    def loss(self, rows: np.ndarray, baseline: np.ndarray) -> float:
        """How much worse the rows are than the baseline's, in the metric's unit; below 0 when better."""
        plugin, options = self.metric
        sign = 1 if getattr(options, "better", plugin.BETTER) == "higher" else -1
        if plugin.AGAINST == "baseline":
            best = plugin.summarize(plugin.compare(baseline, baseline))
            return float(sign * (best - plugin.summarize(plugin.compare(rows, baseline))))
        return float(sign * (plugin.summarize(baseline) - plugin.summarize(rows)))


def chosen(metrics: Mapping[str, tuple[Any, Any]]) -> str | None:
    """The metric that layers are ranked by: the first that looks at labels, else the first."""
    judged = [name for name, (plugin, _) in metrics.items() if plugin.AGAINST == "labels"]
    return next(iter(judged or metrics), None)


def tried(session: Session, batch: Batch) -> None:
    """Run one batch, as an evaluation would."""
    accuracy.run(session, batch.feeds)
