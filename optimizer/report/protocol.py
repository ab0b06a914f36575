"""How the numbers were taken: the protocols of a run's measurements, merged where they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optimizer.report.pipeline import Item, text
from optimizer.values import Measurement, Run

RAW = ("quantiles", "restart_p50", "first_call", "entry", "modes", "conditions", "simultaneous")
"""Protocol entries that are data of one candidate or keys, and say nothing about the method."""
RELATIONS = {"absolute": "", "drop": " drop", "speedup": " speed-up", "ratio": " ratio"}


@dataclass(frozen=True)
class Protocol:
    """The method behind a group of measurements."""

    title: str
    items: tuple[Item, ...]


def protocols(run: Run) -> list[Protocol]:
    """One protocol per set of metrics that share it, in the order of the run."""
    families: dict[str, list[Measurement]] = {}
    for m in run.measurements:
        families.setdefault(m.metric + RELATIONS[m.relation], []).append(m)
    merged: dict[tuple[Item, ...], list[str]] = {}
    for name, own in families.items():
        items = _items(own)
        if items:
            merged.setdefault(items, []).append(name)
    return [Protocol(", ".join(names), items) for items, names in merged.items()]


def _items(own: Sequence[Measurement]) -> tuple[Item, ...]:
    names = [n for n in dict.fromkeys(n for m in own for n in m.protocol) if n not in RAW]
    return tuple(
        Item(name.replace("_", " "), _merged([m.protocol[name] for m in own if name in m.protocol])) for name in names
    )


def _merged(values: Sequence[Any]) -> str:
    """One value where all agree, the range of numbers, else the distinct values as far as they are few."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        low, high = min(values), max(values)
        return text(low) if low == high else f"{text(low)} to {text(high)}"
    distinct = list(dict.fromkeys(text(v) for v in values))
    if len(distinct) <= 4:
        return " | ".join(distinct)
    return f"{len(distinct)} different values, see run.json"
