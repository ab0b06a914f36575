"""Accuracy of parts of the data: for each metric and candidate the slices, the worst first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizer.report import charts, numerals
from optimizer.report.charts import Chart, Datum
from optimizer.report.index import Index
from optimizer.values import Candidate, Measurement

ROWS = 1500  # slices in the whole page; a thousand classes of many candidates would make it heavy
DRAWN = 8  # slices in a chart, the worst
NOT_SLICES = ("batch", "threads", "streams")


@dataclass(frozen=True)
class Slice:
    """One part of the data: how good the candidate is there, and how much it lost against the baseline."""

    column: str
    value: str
    n: int
    absolute: Measurement | None
    drop: Measurement | None

    @property
    def name(self) -> str:
        return f"{self.column} = {self.value}" if self.column else self.value


@dataclass(frozen=True)
class Sliced:
    """The slices of one candidate in one metric."""

    metric: str
    candidate: Candidate
    colour: int
    sentence: str  # names the worst slice
    chart: Chart | None
    rows: tuple[Slice, ...]
    left_out: int


def sliced(found: Index) -> list[Sliced]:
    """Every metric and candidate that was measured on parts of the data, in the order of the run."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for m in found.run.slices:
        if math.isfinite(m.value):
            groups.setdefault((m.metric, m.subject), []).append(m)
    room = max(10, ROWS // max(1, len(groups)))
    known = {c.name: c for c in found.run.candidates}
    return [
        _sliced(found, metric, known[subject], ranked(own), room)
        for (metric, subject), own in groups.items()
        if subject in known and (any(m.relation == "drop" for m in own) or not found.is_baseline(known[subject]))
    ]


def ranked(own: Sequence[Measurement]) -> list[Slice]:
    """The slices of one metric and candidate; the largest drop first, or the worst value where none was paired."""
    by: dict[tuple[str, str], dict[str, Measurement]] = {}
    for m in own:
        by.setdefault(place(m), {})[m.relation] = m
    slices = [_slice(column, value, found) for (column, value), found in by.items()]
    return sorted(slices, key=lambda s: (s.drop is None, -badness(s), s.name))


def badness(part: Slice) -> float:
    """How bad a slice surely is: larger is worse.

    The lower end of the interval, of the one that holds for all slices at once where the run has it: the largest
    value alone would name the smallest, noisiest slice.
    """
    if part.drop is not None:
        together = part.drop.protocol.get("simultaneous")
        low = together[0] if together else part.drop.low
        return float(part.drop.value if low is None else low)
    m = part.absolute
    if m is None:
        return -math.inf
    return m.value if m.better == "lower" else -m.value


def place(m: Measurement) -> tuple[str, str]:
    """Column and value that a measurement was restricted to."""
    if "value" in m.at:
        return str(m.at.get("column", "")), str(m.at["value"])
    own = [(str(name), str(value)) for name, value in m.at.items() if name not in NOT_SLICES]
    return (", ".join(name for name, _ in own), ", ".join(value for _, value in own)) if own else ("", "all")


def _slice(column: str, value: str, found: dict[str, Measurement]) -> Slice:
    absolute, drop = found.get("absolute"), found.get("drop")
    return Slice(column, value, (drop or absolute or next(iter(found.values()))).n, absolute, drop)


def _sliced(found: Index, metric: str, c: Candidate, rows: list[Slice], room: int) -> Sliced:
    colour = found.targets.index(c.target)
    sentence = f"Worst slice: {_worst(rows[0])}" if rows else ""
    shown = [row for row in rows if row.drop][:DRAWN]
    whole = found.get(c.name, metric, "drop")
    reference = (whole.value, "all the data") if whole and math.isfinite(whole.value) else (0.0, "no drop")
    chart = charts.intervals(
        f"{metric} drop on {'the worst ' if len(rows) > len(shown) else ''}slices",
        f"{c.name} against the baseline, on the same examples, with 95 % intervals.",
        shown[0].drop.unit if shown and shown[0].drop else "",
        [_datum(row, c, colour) for row in shown],
        reference=reference,
    )
    return Sliced(metric, c, colour, sentence, chart, tuple(rows[:room]), max(0, len(rows) - room))


def _datum(row: Slice, c: Candidate, colour: int) -> Datum:
    m = row.drop
    if m is None:
        raise AssertionError("BUG: a slice without a drop was drawn")
    note = f"{numerals.interval(m)} n {row.n:,}".strip()
    return Datum(row.name, c.target, colour, m.value, m.low, m.high, numerals.quantity(m), note)


def _worst(row: Slice) -> str:
    if row.drop is None:
        return f"{row.name}, {numerals.full(row.absolute)} (n = {row.n:,})."
    together = row.drop.protocol.get("simultaneous")
    m = replace(row.drop, low=together[0], high=together[1]) if together else row.drop
    compared = row.drop.protocol.get("comparisons")
    all_ = f"; the interval holds for all {compared} drops compared" if together and compared else ""
    certain = m.low is None or m.low > 0
    tail = "." if certain else ", so the data does not prove a drop on any slice."
    return f"{row.name}, a drop of {numerals.full(m)} (n = {row.n:,}{all_}){tail}"
