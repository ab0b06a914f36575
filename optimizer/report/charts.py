"""Charts as data: where each mark lies, in percent of the plot's width. Templates draw them as inline SVG.

A chart is a table whose middle column is drawn, so that it reflows on a phone, prints, and is read out by a
screen reader as the numbers it shows. Marks have horizontal positions in percent and no text of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optimizer.report import numerals

CROWDED = 20.0
"""A latency axis that spans more than this factor is logarithmic."""
PAD = 3.0  # percent kept free at both ends, so that no mark is cut


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic axis from `low` to `high`; values beyond it are drawn at its end."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """The position of a value in percent of the plot's width, clamped to the plot."""
        low, high, x = (math.log(max(v, 1e-12)) if self.log else v for v in (self.low, self.high, value))
        share = (x - low) / (high - low) if high > low else 0.5
        return round(PAD + (100 - 2 * PAD) * min(max(share, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Mark:
    """One shape of a row. `kind` is also its class in the page's style."""

    kind: Literal["span", "box", "range", "tick", "dot", "origin", "bar", "over", "under"]
    x: float
    to: float = 0.0


@dataclass(frozen=True)
class Line:
    """A vertical line through all rows: a reference value, or the limit of a gate."""

    kind: Literal["reference", "limit"]
    x: float
    label: str
    forbidden: tuple[float, float] | None = None  # percent range beyond a limit


@dataclass(frozen=True)
class Tick:
    """A labelled position on the axis."""

    x: float
    label: str


@dataclass(frozen=True)
class Row:
    """One candidate of a chart: its marks, and the same in words."""

    variant: str
    target: str
    colour: int
    value: str
    note: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Group:
    """The rows of one target."""

    target: str
    colour: int
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Chart:
    """A titled plot of groups of rows on one axis."""

    title: str
    caption: str
    unit: str
    groups: tuple[Group, ...]
    ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()  # (mark kind, meaning)


@dataclass(frozen=True)
class Limit:
    """A gate's threshold on the quantity of a chart."""

    value: float
    above: bool  # True: values above it are forbidden
    label: str


@dataclass(frozen=True)
class Datum:
    """What a row is drawn from."""

    variant: str
    target: str
    colour: int
    value: float | None  # None: nothing is drawn, the text says why
    low: float | None
    high: float | None
    text: str
    note: str = ""
    quartiles: tuple[float, float] | None = None
    spread: tuple[float, float] | None = None
    tail: float | None = None
    origin: bool = False  # the baseline itself: marked at the reference


def intervals(
    title: str,
    caption: str,
    unit: str,
    data: Sequence[Datum],
    *,
    reference: tuple[float, str] | None = None,
    limits: Sequence[Limit] = (),
    log: bool = False,
) -> Chart | None:
    """A forest plot: a dot and its interval per row, a line at the reference, a shaded side at each limit."""
    if all(d.value is None for d in data):
        return None
    ends = [v for d in data for v in (d.low, d.high, d.value) if v is not None]
    anchors = [limit.value for limit in limits] + ([reference[0]] if reference else [])
    scale = _fitted(ends if log else _clipped(ends, anchors), anchors, log)
    origin = (Mark("origin", scale.at(reference[0])),) if reference else ()
    rows = [_row(d, origin if d.origin else _interval_marks(d, scale)) for d in data]
    beyond = any(mark.kind in ("over", "under") for row in rows for mark in row.marks)
    legend = (("over", "beyond the scale"),) if beyond else ()
    return _chart(title, caption, unit, rows, scale, _lines(scale, reference, limits), legend)


def timings(title: str, caption: str, data: Sequence[Datum], limits: Sequence[Limit] = ()) -> Chart | None:
    """Latency rows: the median with its interval, the middle half and 90 % of the calls, a tick at p95."""
    values = [v for d in data for v in (d.value, d.low, d.high, d.tail, *(d.spread or ())) if v is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    log = low > 0 and high / low > CROWDED
    scale = Scale(low / 1.15, high * 1.15, True) if log else Scale(0.0, high * 1.02)
    rows = [_row(d, _timing_marks(d, scale)) for d in data]
    shown = [limit for limit in limits if scale.low <= limit.value <= scale.high]
    legend = [("dot", "median and its 95 % interval")]
    if any(d.quartiles for d in data):
        legend.append(("box", "middle half, thin: 5 % to 95 %"))
    if any(d.tail is not None for d in data):
        legend.append(("tick", "p95"))
    note = f"{caption} Logarithmic scale." if scale.log else caption
    return _chart(title, note, "ms", rows, scale, _lines(scale, None, shown), tuple(legend))


def bars(title: str, caption: str, unit: str, data: Sequence[Datum]) -> Chart | None:
    """Bars from zero, for exact amounts such as a size."""
    if all(d.value is None for d in data):
        return None
    scale = Scale(0.0, max(1e-12, *(d.value or 0.0 for d in data)))
    rows = [_row(d, () if d.value is None else (Mark("bar", scale.at(0.0), scale.at(d.value)),)) for d in data]
    return _chart(title, caption, unit, rows, scale, ())


def without_blanks(chart: Chart) -> Chart:
    """The chart without the rows that show nothing, for a chart that stands alone."""
    rows = [row for group in chart.groups for row in group.rows if row.marks]
    return replace(chart, groups=_groups(rows))


def _chart(
    title: str,
    caption: str,
    unit: str,
    rows: Sequence[Row],
    scale: Scale,
    lines: tuple[Line, ...],
    legend: tuple[tuple[str, str], ...] = (),
) -> Chart:
    ticks = tuple(Tick(scale.at(v), numerals.tick(v, unit)) for v in _ticks(scale))
    return Chart(title, caption, unit, _groups(rows), ticks, lines, legend)


def _groups(rows: Iterable[Row]) -> tuple[Group, ...]:
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row.target, []).append(row)
    return tuple(Group(target, own[0].colour, tuple(own)) for target, own in by.items())


def _row(d: Datum, marks: tuple[Mark, ...]) -> Row:
    return Row(d.variant, d.target, d.colour, d.text, d.note, marks)


def _interval_marks(d: Datum, scale: Scale) -> tuple[Mark, ...]:
    if d.value is None:
        return ()
    if d.value > scale.high:
        return (Mark("over", 100 - PAD),)
    if d.value < scale.low:
        return (Mark("under", PAD),)
    dot = Mark("dot", scale.at(d.value))
    if d.low is None or d.high is None:
        return (dot,)
    return (Mark("span", scale.at(d.low), scale.at(d.high)), dot)


def _timing_marks(d: Datum, scale: Scale) -> tuple[Mark, ...]:
    marks = []
    if d.spread:
        marks.append(Mark("range", scale.at(d.spread[0]), scale.at(d.spread[1])))
    if d.quartiles:
        marks.append(Mark("box", scale.at(d.quartiles[0]), scale.at(d.quartiles[1])))
    if d.tail is not None:
        marks.append(Mark("tick", scale.at(d.tail)))
    return (*marks, *_interval_marks(d, scale))


def _lines(scale: Scale, reference: tuple[float, str] | None, limits: Sequence[Limit]) -> tuple[Line, ...]:
    lines = [Line("reference", scale.at(reference[0]), reference[1])] if reference else []
    for limit in limits:
        x = scale.at(limit.value)
        lines.append(Line("limit", x, limit.label, (x, 100.0) if limit.above else (0.0, x)))
    return tuple(lines)


def _clipped(values: Sequence[float], anchors: Sequence[float]) -> list[float]:
    """Values without those so far out that the others, around the anchors, would become one blot."""
    reach = 6 * max((abs(a) for a in anchors), default=0.0)
    near = [v for v in values if abs(v) <= reach]
    return near if reach and near and max(map(abs, values)) > 2 * reach else list(values)


def _fitted(values: Sequence[float], anchors: Sequence[float], log: bool) -> Scale:
    everything = [*values, *anchors]
    low, high = min(everything), max(everything)
    if log and low > 0:
        return Scale(low / 1.12, high * 1.12, True)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - room, high + room)


def _ticks(scale: Scale) -> list[float]:
    if scale.log:
        return _log_ticks(scale)
    step = _step((scale.high - scale.low) / 6)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _step(least: float) -> float:
    """The smallest round step that is not below `least`: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= least * (1 - 1e-9))


def _log_ticks(scale: Scale) -> list[float]:
    decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for multiples in ((1, 1.5, 2, 3, 4, 6, 8), (1, 2, 4, 8), (1, 2, 5), (1,)):
        found = [m * 10.0**d for d in decades for m in multiples]
        inside = [round(v, 10) for v in found if scale.low <= v <= scale.high]
        if len(inside) <= 7:
            return inside
    return [10.0**d for d in decades if scale.low <= 10.0**d <= scale.high]
