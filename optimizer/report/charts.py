"""Charts as data: where each mark lies, in percent of the plot's width. Templates draw them as inline SVG.

A chart is a table whose middle column is drawn, so that it reflows on a phone, prints, and is read out by a
screen reader as the numbers it shows. Marks have horizontal positions in percent and no text of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from optimizer.report.axes import CROWDED, PAD, Scale, Tick, clipped, fitted, labelled


@dataclass(frozen=True)
class Mark:
    """One shape of a row. `kind` is also its class in the page's style."""

    kind: Literal["span", "box", "range", "tick", "dot", "ring", "origin", "bar", "over", "under"]
    x: float
    to: float = 0.0


@dataclass(frozen=True)
class Line:
    """A vertical line through all rows: a reference value, or the limit of a gate."""

    kind: Literal["reference", "second", "limit"]
    x: float
    label: str
    forbidden: tuple[float, float] | None = None  # percent range beyond a limit


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
    """The rows of one target, and the range that is noise for them, in percent."""

    target: str
    colour: int
    rows: tuple[Row, ...]
    band: tuple[float, float] | None = None


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
    origin: bool = False  # the baseline itself: a ring at the reference, or at its distance from itself


def intervals(
    title: str,
    caption: str,
    unit: str,
    data: Sequence[Datum],
    *,
    reference: tuple[float, str] | None = None,
    limits: Sequence[Limit] = (),
    log: bool = False,
    bands: Mapping[str, tuple[float, float]] | None = None,
    extra: tuple[float, str] | None = None,
    noise: str = "noise",
    solid: bool = False,
) -> Chart | None:
    """A forest plot: a dot and its interval per row, a line at the reference, a shaded side at each limit.

    `bands` are ranges that are noise, one per target, `noise` says of what; `extra` is a second value to compare
    with; with `solid` a bar leads from the reference to each dot.
    """
    if all(d.value is None for d in data):
        return None
    bands = bands or {}
    ends = [v for d in data for v in (d.low, d.high, d.value) if v is not None]
    ends += [v for target, band in bands.items() if any(d.target == target for d in data) for v in band]
    references = [line for line in (reference, extra) if line]
    anchors = [limit.value for limit in limits] + [value for value, _ in references]
    scale = fitted(clipped(ends, anchors) if limits and not log else ends, anchors, log)
    origin = (Mark("origin", scale.at(reference[0])),) if reference else ()
    start = scale.at(reference[0]) if solid and reference else None
    rows = [_row(d, origin if d.origin and d.value is None else _interval_marks(d, scale, start)) for d in data]
    beyond = any(mark.kind in ("over", "under") for row in rows for mark in row.marks)
    legend = [("band", noise)] if bands else []
    legend += [("over", "beyond the scale")] if beyond else []
    chart = _chart(title, caption, unit, rows, scale, _lines(scale, references, limits), tuple(legend))
    drawn = {target: (scale.at(low), scale.at(high)) for target, (low, high) in bands.items()}
    return replace(chart, groups=tuple(replace(g, band=drawn.get(g.target)) for g in chart.groups))


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
    return _chart(title, note, "ms", rows, scale, _lines(scale, (), shown), tuple(legend))


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
    return Chart(title, caption, unit, _groups(rows), labelled(scale, unit), lines, legend)


def _groups(rows: Iterable[Row]) -> tuple[Group, ...]:
    by: dict[str, list[Row]] = {}
    for row in rows:
        by.setdefault(row.target, []).append(row)
    return tuple(Group(target, own[0].colour, tuple(own)) for target, own in by.items())


def _row(d: Datum, marks: tuple[Mark, ...]) -> Row:
    return Row(d.variant, d.target, d.colour, d.text, d.note, marks)


def _interval_marks(d: Datum, scale: Scale, start: float | None = None) -> tuple[Mark, ...]:
    if d.value is None:
        return ()
    if d.value > scale.high:
        return (Mark("over", 100 - PAD),)
    if d.value < scale.low:
        return (Mark("under", PAD),)
    x = scale.at(d.value)
    bar = (Mark("bar", min(start, x), max(start, x)),) if start is not None else ()
    dot = Mark("ring" if d.origin else "dot", x)
    if d.low is None or d.high is None:
        return (*bar, dot)
    return (*bar, Mark("span", scale.at(d.low), scale.at(d.high)), dot)


def _timing_marks(d: Datum, scale: Scale) -> tuple[Mark, ...]:
    marks = []
    if d.spread:
        marks.append(Mark("range", scale.at(d.spread[0]), scale.at(d.spread[1])))
    if d.quartiles:
        marks.append(Mark("box", scale.at(d.quartiles[0]), scale.at(d.quartiles[1])))
    if d.tail is not None:
        marks.append(Mark("tick", scale.at(d.tail)))
    return (*marks, *_interval_marks(d, scale))


def _lines(scale: Scale, references: Sequence[tuple[float, str]], limits: Sequence[Limit]) -> tuple[Line, ...]:
    kinds: tuple[Literal["reference", "second"], ...] = ("reference", "second")
    lines = [Line(kind, scale.at(value), label) for kind, (value, label) in zip(kinds, references, strict=False)]
    for limit in limits:
        x = scale.at(limit.value)
        lines.append(Line("limit", x, limit.label, (x, 100.0) if limit.above else (0.0, x)))
    return tuple(lines)
