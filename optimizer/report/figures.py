"""Which charts of accuracy and size a run has, and what each row of them shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optimizer.report import charts, numerals
from optimizer.report.charts import Chart
from optimizer.report.entries import datum, rows
from optimizer.report.index import Index
from optimizer.report.limits import limits


@dataclass(frozen=True)
class Pair:
    """Two charts that belong together: a quantity, and the same against the baseline."""

    title: str
    left: Chart
    right: Chart | None


def accuracy(found: Index) -> list[Pair]:
    """For each metric the values, and the drops against the baseline with the gates' limits."""
    pairs = []
    for name in found.metrics:
        units = {m.relation: m.unit for m in found.run.measurements if m.metric == name}
        values = charts.intervals(
            name,
            _counts(found, name, "absolute"),
            units.get("absolute", ""),
            rows(found, name),
            limits=limits(found.run, name, "absolute"),
        )
        drops = charts.intervals(
            f"{name} drop against the baseline",
            _counts(found, name, "drop"),
            units.get("drop", ""),
            rows(found, name, "drop"),
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


def size(found: Index) -> Chart | None:
    """The artifact sizes."""
    data = []
    for c in found.built():
        ratio = found.get(c.name, "size", "ratio")
        data.append(replace(datum(found, c, found.get(c.name, "size")), note=numerals.quantity(ratio) if ratio else ""))
    return charts.bars("Artifact size", "All files that the runtime loads, and the ratio to the baseline.", "B", data)


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
