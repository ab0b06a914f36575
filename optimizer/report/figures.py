"""Which charts a run has, and what each row of them shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizer.report import charts, numerals
from optimizer.report.charts import Chart, Datum
from optimizer.report.index import Index, Setting
from optimizer.report.limits import limits
from optimizer.values import Candidate, Measurement

COST_COLUMNS = (
    ("latency.p50", "p50"),
    ("latency.p90", "p90"),
    ("latency.p95", "p95"),
    ("latency.p99", "p99"),
    ("throughput", "throughput"),
    ("load.time", "load time"),
    ("memory.peak", "peak memory"),
)


@dataclass(frozen=True)
class Pair:
    """Two charts that belong together: a quantity, and the same against the baseline."""

    title: str
    left: Chart
    right: Chart | None


@dataclass(frozen=True)
class Costs:
    """Every cost of every candidate at one setting, in words."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Candidate, int, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Timing:
    """One setting: its charts and its table."""

    setting: Setting
    pair: Pair
    costs: Costs


def accuracy(found: Index) -> list[Pair]:
    """For each metric the values, and the drops against the baseline with the gates' limits."""
    pairs = []
    for name in found.metrics:
        units = {m.relation: m.unit for m in found.run.measurements if m.metric == name}
        values = charts.intervals(
            name,
            _counts(found, name, "absolute"),
            units.get("absolute", ""),
            _rows(found, name),
            limits=limits(found.run, name, "absolute"),
        )
        drops = charts.intervals(
            f"{name} drop against the baseline",
            _counts(found, name, "drop"),
            units.get("drop", ""),
            _rows(found, name, "drop"),
            reference=(0.0, "no drop"),
            limits=limits(found.run, name, "drop"),
        )
        if values and not drops:
            values = charts.without_blanks(values)
        if values:
            pairs.append(Pair(name, values, drops))
        elif drops:
            pairs.append(Pair(name, drops, None))
    return pairs


def timings(found: Index) -> list[Timing]:
    """For each setting the latency, the speed-up, and all costs in a table."""
    return [t for s in found.settings if (t := _timing(found, s))]


def size(found: Index) -> Chart | None:
    """The artifact sizes."""
    data = []
    for c in found.built():
        ratio = found.get(c.name, "size", "ratio")
        data.append(
            replace(_datum(found, c, found.get(c.name, "size")), note=numerals.quantity(ratio) if ratio else "")
        )
    return charts.bars("Artifact size", "All files that the runtime loads, and the ratio to the baseline.", "B", data)


def _timing(found: Index, setting: Setting) -> Timing | None:
    left = charts.timings(
        "Latency",
        f"Milliseconds per call{_threads(found, setting)}.",
        [_timed(found, c, setting) for c in found.built()],
        limits(found.run, "latency.p50", "absolute"),
    )
    right = charts.intervals(
        "Speed-up against the baseline",
        "Ratio of the medians with its 95 % interval. Logarithmic scale.",
        "x",
        _rows(found, "latency.p50", "speedup", setting),
        reference=(1.0, "as fast as the baseline"),
        limits=limits(found.run, "latency.p50", "speedup"),
        log=True,
    )
    title = setting.label[:1].upper() + setting.label[1:]
    return Timing(setting, Pair(title, left, right), _costs(found, setting)) if left else None


def _costs(found: Index, setting: Setting) -> Costs:
    shown = [
        (n, label) for n, label in COST_COLUMNS if any(found.get(c.name, n, setting=setting) for c in found.built())
    ]
    rows = tuple(
        (
            c,
            found.targets.index(c.target),
            tuple(numerals.full(found.get(c.name, n, setting=setting)) for n, _ in shown),
        )
        for c in found.built()
    )
    return Costs(tuple(label for _, label in shown), rows)


def _rows(found: Index, metric: str, relation: str = "absolute", setting: Setting | None = None) -> list[Datum]:
    """A row for every candidate that was built, so that two charts side by side have the same rows."""
    return [_datum(found, c, found.get(c.name, metric, relation, setting), relation) for c in found.built()]


def _datum(found: Index, c: Candidate, m: Measurement | None, relation: str = "absolute") -> Datum:
    colour = found.targets.index(c.target)
    if m is None or not math.isfinite(m.value):
        origin = relation != "absolute" and found.is_baseline(c)
        text = "baseline" if origin else numerals.ABSENT
        return Datum(c.variant, c.target, colour, None, None, None, text, origin=origin)
    return Datum(c.variant, c.target, colour, m.value, m.low, m.high, numerals.quantity(m), numerals.interval(m))


def _timed(found: Index, c: Candidate, setting: Setting) -> Datum:
    m = found.get(c.name, "latency.p50", "absolute", setting)
    if m is None:
        return _datum(found, c, None)
    tail = found.get(c.name, "latency.p95", "absolute", setting)
    low, first, third, high = (_at(m.protocol.get("quantiles") or [], share) for share in (0.05, 0.25, 0.75, 0.95))
    return replace(
        _datum(found, c, m),
        note=f"p95 {numerals.bare(tail)}" if tail else "",
        quartiles=(first, third) if first is not None and third is not None else None,
        spread=(low, high) if low is not None and high is not None else None,
        tail=tail.value if tail else None,
    )


def _at(quantiles: Sequence[float], share: float) -> float | None:
    """The quantile at `share` of a list at evenly spaced probabilities from 0 to 1."""
    if len(quantiles) < 5:
        return None
    place = share * (len(quantiles) - 1)
    low = math.floor(place)
    high = min(low + 1, len(quantiles) - 1)
    return float(quantiles[low] + (quantiles[high] - quantiles[low]) * (place - low))


def _counts(found: Index, metric: str, relation: str) -> str:
    own = [m for m in found.run.measurements if m.metric == metric and m.relation == relation]
    counts = sorted({m.n for m in own})
    if not counts:
        return ""
    n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    interval = " with 95 % intervals" if any(m.low is not None for m in own) else ""
    return (
        f"On {n} examples{interval}." if relation == "absolute" else f"Difference on the same {n} examples{interval}."
    )


def _threads(found: Index, setting: Setting) -> str:
    own = (found.get(c.name, "latency.p50", "absolute", setting) for c in found.built())
    counts = sorted({int(m.at["threads"]) for m in own if m and "threads" in m.at})
    if not counts:
        return ""
    return f", {numerals.count(counts[0], 'thread')}" if len(counts) == 1 else f", {counts[0]} to {counts[-1]} threads"
