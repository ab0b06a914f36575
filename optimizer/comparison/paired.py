"""Paired drops of accuracy between two runs, from the results per example that the store still has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from optimizer import registry
from optimizer.comparison.likeness import is_cost
from optimizer.comparison.values import Pair, Pairing
from optimizer.measure import accuracy
from optimizer.store import Store, StoredEntry
from optimizer.values import Measurement, Run

DIGESTED = ("sha256:", "code:")
"""How an option begins that was a file or code: of those only the digest is known."""


def drops(before: Run, after: Run, pairing: Pairing, store: Store) -> dict[tuple[str, str], Measurement]:
    """(pair's name, metric) -> the paired drop, wherever both evaluations are at hand and are of the same data."""
    found = {}
    for pair in pairing.pairs:
        old, new = _absolutes(before, pair.before.name), _absolutes(after, pair.after.name)
        for metric in (name for name in old if name in new):
            drop = _drop(pair, metric, _Rows(before, old[metric], store), _Rows(after, new[metric], store))
            if drop is not None:
                found[pair.name, metric] = drop
    return found


class _Rows:
    """The stored results per example behind one measurement."""

    def __init__(self, run: Run, m: Measurement, store: Store) -> None:
        self.run, self.measurement, self.store = run, m, store
        self.entry = self._entry(m)

    def _entry(self, m: Measurement | None) -> StoredEntry | None:
        key = m.protocol.get("entry") if m else None
        return self.store.get(key) if isinstance(key, str) and key else None

    @property
    def ingredients(self) -> dict[str, Any]:
        return dict(self.entry.record.get("ingredients", {})) if self.entry else {}

    def own(self) -> np.ndarray | None:
        return _read(self.entry, self.measurement.metric)

    def baseline(self) -> np.ndarray | None:
        """The same metric's rows of the candidate that this measurement compares with."""
        others = (m for m in self.run.measurements if m.subject == self.measurement.against and "entry" in m.protocol)
        return _read(self._entry(next(others, None)), self.measurement.metric)


def _absolutes(run: Run, subject: str) -> dict[str, Measurement]:
    return {
        m.metric: m
        for m in run.measurements
        if m.subject == subject and m.relation == "absolute" and not is_cost(m.metric)
    }


def _read(entry: StoredEntry | None, metric: str) -> np.ndarray | None:
    if entry is None or not (entry.path / "rows.npz").is_file():
        return None
    with np.load(entry.path / "rows.npz") as rows:
        return np.asarray(rows[metric]) if metric in rows.files else None


def _drop(pair: Pair, metric: str, before: _Rows, after: _Rows) -> Measurement | None:
    described = [side.ingredients.get("metrics", {}).get(metric) for side in (before, after)]
    plugin, options = _metric(described[1])
    alike = described[0] == described[1] and before.ingredients.get("data") == after.ingredients.get("data")
    rows = [before.own(), after.own()]
    if plugin is None or not alike or rows[0] is None or rows[1] is None:
        return None
    if plugin.AGAINST == "baseline":
        bases = [before.baseline(), after.baseline()]
        if bases[0] is None or bases[1] is None:
            return None
        rows = [plugin.compare(own, base) for own, base in zip(rows, bases, strict=True)]
        plugin = SimpleNamespace(**{**vars(plugin), "AGAINST": "labels"})
    one, other = rows
    if one is None or other is None or len(one) != len(other):
        return None
    metrics = {metric: (plugin, options)}
    found = accuracy.measurements(pair.name, {metric: other}, metrics, ("before", {metric: one}), "", 0, {})
    return next((m for m in found if m.relation == "drop"), None)


def _metric(described: Any) -> tuple[Any, Any]:
    """The metric and its options as an evaluation's ingredients describe them; (None, None) where they cannot tell."""
    if not isinstance(described, list) or len(described) != 2:
        return None, None
    module, options = described
    if any(isinstance(v, str) and v.startswith(DIGESTED) for v in options.values()):
        return None, None
    plugins = (registry.load("metrics", name) for name in registry.names("metrics"))
    plugin = next((p for p in plugins if p.__name__ == module), None)
    return (None, None) if plugin is None else (plugin, plugin.Options.model_validate(options))
