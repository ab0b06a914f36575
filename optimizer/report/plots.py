"""Plots in two dimensions as data: paths in a box of 1000 by 1000, stretched to whatever width there is.

Strokes keep their width (`vector-effect`), labels lie outside of the stretched box, so that a plot reads the same on
a phone and on paper. What a pointer or a key reads out of a plot is in the table or the figures beside it, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.report import numerals
from optimizer.report.axes import CROWDED, Scale, Tick, labelled
from optimizer.values import Candidate, TensorError

BOX = 10.0  # units of the box per percent
DASHES = 4  # line patterns, one per variant
ROOF = 80.0
"""Decibels at which the error axis ends: beyond it a float32 network is as good as identical."""
POINTS = 1200  # that can be read out, in the whole page


@dataclass(frozen=True)
class Curve:
    """One line of a plot; `values` are read out, `path` is drawn."""

    candidate: Candidate
    colour: int
    dash: int
    path: str
    values: tuple[str, ...]  # at evenly spaced probabilities from 0 to 1
    middle: str


@dataclass(frozen=True)
class Distribution:
    """Empirical distribution functions of the latency at one setting."""

    title: str
    caption: str
    described: str  # for who cannot see it
    curves: tuple[Curve, ...]
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    scale: Scale


@dataclass(frozen=True)
class Point:
    """One tensor: where it is drawn, and its figures in words."""

    x: float
    y: float
    name: str
    text: str
    jump: bool


@dataclass(frozen=True)
class Depth:
    """The error of every tensor along the depth of the network."""

    described: str
    path: str
    points: tuple[Point, ...]
    first: Point | None  # the first jump
    y: tuple[Tick, ...]


def distribution(
    title: str, data: Sequence[tuple[Candidate, int, int, Sequence[float]]], pieces: int = 100
) -> Distribution | None:
    """The share of calls that took at most so long, a line per candidate; quantiles at evenly spaced probabilities."""
    usable = [row for row in data if len(row[3]) >= 5 and all(math.isfinite(v) for v in row[3])]
    if not usable:
        return None
    low, top = min(row[3][0] for row in usable), max(row[3][-1] for row in usable)
    high = max(quantile(row[3], 0.99) for row in usable)
    high = top if top <= 1.25 * high else high
    log = low > 0 and high / low > CROWDED
    scale = (
        Scale(low / 1.04, high * 1.04, True, 0.0) if log else Scale(low - 0.04 * (high - low), high * 1.02, False, 0.0)
    )
    curves = tuple(_curve(scale, *row, pieces) for row in usable)
    caption = "Share of the calls that took at most so many milliseconds; further left is faster."
    caption += " Logarithmic scale." if log else ""
    caption += " The slowest 1 % lies beyond the right edge." if high < top else ""
    words = "; ".join(f"{c.candidate.name} half within {c.middle} ms" for c in curves)
    y = tuple(Tick(100.0 - share, f"{share} %") for share in (0, 25, 50, 75, 100))
    return Distribution(title, caption, f"{title}: {words}", curves, labelled(scale, "ms"), y, scale)


def quantile(quantiles: Sequence[float], share: float) -> float:
    """The quantile at `share` of a list at evenly spaced probabilities from 0 to 1."""
    place = share * (len(quantiles) - 1)
    low = min(math.floor(place), len(quantiles) - 1)
    high = min(low + 1, len(quantiles) - 1)
    return float(quantiles[low] + (quantiles[high] - quantiles[low]) * (place - low))


def depth(tensors: Sequence[TensorError], most: int = POINTS) -> Depth | None:
    """SQNR of every tensor in topological order; identical tensors lie at the upper end of the axis.

    The line goes through all of them; at most `most` are points that can be read out, all jumps among them.
    """
    ordered = sorted((t for t in tensors if _plotted(t)), key=lambda t: t.place)
    if not ordered:
        return None
    levels = [min(ROOF, t.sqnr_db) for t in ordered if t.sqnr_db is not None] or [ROOF]
    floor, roof = math.floor(min(0.0, *levels) / 10) * 10.0, max(10.0, math.ceil(max(levels) / 10) * 10.0)
    scale = Scale(floor, roof, False, 2.0)
    width = max(1, ordered[-1].place - ordered[0].place)
    points = tuple(_point(t, (t.place - ordered[0].place) / width, scale) for t in ordered)
    worst = min(ordered, key=lambda t: math.inf if t.sqnr_db is None else t.sqnr_db)
    first = next((p for p in points if p.jump), None)
    described = f"SQNR of {numerals.count(len(points), 'tensor')}; lowest {decibels(worst.sqnr_db)} at {worst.name}"
    described += f"; the error first jumps at {first.name}" if first else ""
    step = next(s for s in (10, 20, 40, 100, 200, 500) if (roof - floor) / s <= 6)
    y = tuple(Tick(round(100 - scale.at(v), 2), f"{v:g}") for v in range(int(floor), int(roof) + 1, step))
    return Depth(described, _path([(p.x, p.y) for p in points]), _thinned(points, most), first, y)


def _thinned(points: Sequence[Point], most: int) -> tuple[Point, ...]:
    stride = math.ceil(len(points) / max(1, most))
    return tuple(p for i, p in enumerate(points) if p.jump or i % stride == 0)


def decibels(value: float | None) -> str:
    """SQNR in words."""
    return "identical" if value is None else f"{value:.1f} dB"


def _plotted(t: TensorError) -> bool:
    return t.sqnr_db is None or not math.isnan(t.sqnr_db)


def _point(t: TensorError, share: float, scale: Scale) -> Point:
    y = 100.0 - scale.at(scale.high if t.sqnr_db is None else t.sqnr_db)
    saturated = "" if t.saturated is None else f", {100 * t.saturated:.2g} % saturated"
    text = f"{t.name} ({t.op}): SQNR {decibels(t.sqnr_db)}, cosine {t.cosine:.4f}{saturated}"
    return Point(round(1 + 98 * share, 2), round(y, 2), t.name, text, t.jump)


def _curve(scale: Scale, candidate: Candidate, colour: int, dash: int, values: Sequence[float], pieces: int) -> Curve:
    shares = [i / pieces for i in range(pieces + 1)]
    found = [quantile(values, s) for s in shares]
    path = _path([(scale.at(v), 100 * (1 - s)) for v, s in zip(found, shares, strict=True) if v <= scale.high])
    return Curve(candidate, colour, dash % DASHES, path, tuple(short(v) for v in found), short(quantile(values, 0.5)))


def short(ms: float) -> str:
    """Milliseconds with three significant digits, without an exponent."""
    decimals = 0 if ms <= 0 else max(0, min(6, 2 - math.floor(math.log10(ms))))
    return f"{ms:.{decimals}f}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x * BOX:.0f} {y * BOX:.0f}" for x, y in points)
