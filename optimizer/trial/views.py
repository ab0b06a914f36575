"""A trial's Run for the terminal: one row per subject and setting."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.report import numerals
from optimizer.report.index import Index, Setting, index
from optimizer.report.results import short_precision
from optimizer.report.text import flat
from optimizer.values import Candidate, Run

Table = tuple[list[list[str]], list[str], list[int]]
COLUMNS = (
    ("latency.p50", "absolute", "p50"),
    ("latency.p95", "absolute", "p95"),
    ("latency.p50", "speedup", "speed-up"),
    ("throughput", "absolute", "throughput"),
    ("load.time", "absolute", "load"),
    ("memory.peak", "absolute", "peak memory"),
)
WITH_INTERVAL = ("p50", "speed-up")


def table(run: Run) -> Table:
    """Rows, header and right-aligned columns for `console.table`."""
    found = index(run)
    settings = list(found.settings)
    shown = [s for s in settings if s.label] if len(settings) > 1 else []
    header = ["name", "target", *(["setting"] if shown else []), *(c[2] for c in COLUMNS), "precision"]
    rows = [
        [flat(c.variant), c.target, *([s.label] if shown else []), *_cells(found, c, s), short_precision(c.precision)]
        for s in settings
        for c in found.built()
        if found.get(c.name, "latency.p50", setting=s) or len(settings) == 1
    ]
    first = header.index("p50")
    return rows, header, list(range(first, first + len(COLUMNS)))


def _cells(found: Index, c: Candidate, setting: Setting) -> list[str]:
    cells = []
    for metric, relation, title in COLUMNS:
        m = found.get(c.name, metric, relation, setting)
        if m is None:
            cells.append("baseline" if relation == "speedup" and found.is_baseline(c) else numerals.ABSENT)
        else:
            cells.append(numerals.full(m) if title in WITH_INTERVAL else numerals.quantity(m))
    return cells


def noise(run: Run) -> list[str]:
    """How far the baseline lies from itself in this session, where that was measured."""
    twins = [m for m in run.measurements if m.metric == "latency.aa"]
    return [
        f"A/A      {m.subject} against itself{_at(m.at)}: {numerals.full(m)}; a speed-up within this is none"
        for m in twins
    ]


def _at(at: dict[str, object]) -> str:
    return f" at batch {at['batch']}" if "batch" in at else ""


def accuracy(run: Run) -> Table:
    """The same for accuracy: a row per subject, value and paired drop of every metric."""
    found = index(run)
    dropped = [name for name in found.metrics if found.anyone(name, "drop")]
    header = ["name", "target", *found.metrics, *(f"{n} drop" for n in dropped), "size", "precision"]
    rows = []
    for c in found.built():
        own = [_or_baseline(found, c, n, "absolute") for n in found.metrics]
        drops = [_or_baseline(found, c, n, "drop") for n in dropped]
        rows.append([flat(c.variant), c.target, *own, *drops, _size(found, c), short_precision(c.precision)])
    return rows, header, list(range(2, len(header) - 1))


def _or_baseline(found: Index, c: Candidate, metric: str, relation: str) -> str:
    m = found.get(c.name, metric, relation)
    return "baseline" if m is None and found.is_baseline(c) else numerals.full(m)


def _size(found: Index, c: Candidate) -> str:
    m = found.get(c.name, "size")
    return numerals.quantity(m) if m else numerals.ABSENT


def failures(names: Sequence[str]) -> str:
    """One line about who is missing from the table."""
    return f"failed   {', '.join(names)}: see the warnings above"
