"""Finds a measurement by candidate, metric, relation and setting: the one way that views read a Run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from optimizer.values import Candidate, Measurement, Run

RUNNING = ("latency.", "throughput", "memory.", "load.", "cold.", "offline.", "server.")
"""Metrics that depend on how the model is run: they exist once per setting."""
COSTS = (*RUNNING, "size")
"""Metrics that say what running costs; every other metric says how good the answers are."""


@dataclass(frozen=True)
class Setting:
    """One way to run: batch size and the other sizes that the run varied."""

    key: str
    label: str  # `batch 16`, or "" where the run knows only one unnamed setting


@dataclass(frozen=True)
class Index:
    """The measurements of a run by name; absent ones are None."""

    run: Run
    settings: tuple[Setting, ...]
    metrics: tuple[str, ...]  # accuracy metrics, in the order of the run
    targets: tuple[str, ...]
    found: dict[tuple[str, str, str, str], Measurement]

    def get(
        self, subject: str, metric: str, relation: str = "absolute", setting: Setting | None = None
    ) -> Measurement | None:
        """The measurement, or None when the run has none."""
        return self.found.get((subject, metric, relation, setting.key if setting else ""))

    def anyone(self, metric: str, relation: str = "absolute") -> bool:
        """Whether any candidate has this measurement in any setting."""
        return any(key[1] == metric and key[2] == relation for key in self.found)

    def is_baseline(self, candidate: Candidate) -> bool:
        """Whether others are compared with this candidate."""
        return self.run.baseline is not None and self.run.baseline in (candidate.variant, candidate.name)

    def built(self) -> list[Candidate]:
        """The candidates that exist, in order."""
        return [c for c in self.run.candidates if c.skipped is None]


def index(run: Run) -> Index:
    """The index of a run."""
    settings = _settings([m.at for m in run.measurements if m.metric.startswith("latency.")])
    found: dict[tuple[str, str, str, str], Measurement] = {
        (m.subject, m.metric, m.relation, _key(m.at) if m.metric.startswith(RUNNING) else ""): m
        for m in run.measurements
    }
    metrics = dict.fromkeys(m.metric for m in run.measurements if not m.metric.startswith(COSTS))
    targets = dict.fromkeys(c.target for c in run.candidates)
    return Index(run, settings, tuple(metrics), tuple(targets), found)


def _key(at: dict[str, Any]) -> str:
    return json.dumps(_sizes(at), sort_keys=True)


def _sizes(at: dict[str, Any]) -> dict[str, Any]:
    """The setting without the threads: targets may run with different numbers of them in one comparison."""
    return {name: value for name, value in at.items() if name != "threads"}


def _settings(ats: list[dict[str, Any]]) -> tuple[Setting, ...]:
    """The distinct settings, smallest batch first, labelled by batch and by whatever else differs."""
    distinct = {_key(at): _sizes(at) for at in ats}
    names = dict.fromkeys(name for at in distinct.values() for name in at)
    varying = [n for n in names if n == "batch" or len({json.dumps(at.get(n)) for at in distinct.values()}) > 1]
    ordered = sorted(distinct.items(), key=lambda item: (_number(item[1].get("batch")), item[0]))
    return tuple(Setting(k, ", ".join(f"{n} {at[n]}" for n in varying if n in at)) for k, at in ordered)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
