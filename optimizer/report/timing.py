"""What a run says about time: latency, speed-up beside the noise floor, distributions, costs, recommended settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from optimizer.report import charts, numerals, plots
from optimizer.report.charts import Datum
from optimizer.report.diagnosis import Note, notes
from optimizer.report.entries import datum, rows
from optimizer.report.figures import Pair
from optimizer.report.index import Index, Setting
from optimizer.report.limits import limits
from optimizer.report.noise import Floor, floor
from optimizer.report.pipeline import text
from optimizer.report.plots import Distribution
from optimizer.values import Candidate, Measurement
from optimizer.values import Setting as Best

LOADS = ("offline.", "server.")
COST_COLUMNS = (
    ("latency.p50", "p50"),
    ("latency.p90", "p90"),
    ("latency.p95", "p95"),
    ("latency.p99", "p99"),
    ("throughput", "throughput"),
    ("load.time", "load time"),
    ("cold.start", "cold start"),
    ("memory.peak", "peak memory"),
)


@dataclass(frozen=True)
class Costs:
    """Every cost of every candidate at one setting, in words."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Candidate, int, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Timing:
    """One setting: its charts, its table, and what is to be known about how they came about."""

    setting: Setting
    pair: Pair
    costs: Costs
    distribution: Distribution | None
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class Advised:
    """The runtime options under which a candidate did best at one thing."""

    candidate: Candidate
    colour: int
    objective: str
    options: str
    batch: int
    value: str
    interval: str


@dataclass(frozen=True)
class Load:
    """One number that was taken under load."""

    candidate: Candidate
    colour: int
    what: str
    setting: str
    value: str


def timings(found: Index) -> list[Timing]:
    """For each setting the latency, the speed-up, and all costs in a table."""
    return [t for s in found.settings if (t := _timing(found, s))]


def advised(found: Index) -> list[Advised]:
    """The recommended settings, in the order of the candidates."""
    order = {c.name: c for c in found.run.candidates}
    best = sorted((s for s in found.run.settings if s.subject in order), key=lambda s: list(order).index(s.subject))
    return [_advised(found, order[s.subject], s) for s in best]


def loads(found: Index) -> list[Load]:
    """What was measured under load: offline and server scenarios, in the order of the run."""
    known = {c.name: c for c in found.run.candidates}
    own = [m for m in found.run.measurements if m.metric.startswith(LOADS) and m.subject in known]
    return [
        Load(known[m.subject], found.targets.index(known[m.subject].target), _named(m),
             ", ".join(f"{name} {text(value)}" for name, value in m.at.items()), numerals.full(m))
        for m in own
    ]  # fmt: skip


def _named(m: Measurement) -> str:
    relation = "" if m.relation == "absolute" else f", {m.relation} against {m.against}"
    return f"{m.metric}{relation}"


def _advised(found: Index, c: Candidate, best: Best) -> Advised:
    number = numerals.number(best.value, best.low, best.high, best.unit)
    options = ", ".join(f"{name} = {text(value)}" for name, value in best.options.items()) or "as built"
    return Advised(c, found.targets.index(c.target), best.objective, options, best.batch,
                   numerals.quantity(number), numerals.interval(number))  # fmt: skip


def _timing(found: Index, setting: Setting) -> Timing | None:
    left = charts.timings(
        "Latency",
        f"Milliseconds per call{_threads(found, setting)}.",
        [_timed(found, c, setting) for c in found.built()],
        limits(found.run, "latency.p50", "absolute"),
    )
    if not left:
        return None
    floors = {c.name: f for c in found.built() if (f := floor(found, c, setting))}
    right = charts.intervals(
        "Speed-up against the baseline",
        _explained(floors),
        "x",
        [_compared(found, c, d, floors.get(c.name), setting) for c, d in _speedups(found, setting)],
        reference=(1.0, "as fast as the baseline"),
        limits=limits(found.run, "latency.p50", "speedup"),
        log=True,
        noise=f"noise: the baseline {'against itself' if _twins(floors) else 'from restart to restart'}",
        bands={c.target: (f.low, f.high) for c in found.built() if (f := floors.get(c.name))},
    )
    title = setting.label[:1].upper() + setting.label[1:]
    told = notes(found, setting, floors)
    return Timing(setting, Pair(title, left, right), _costs(found, setting), _distribution(found, setting), told)


def _explained(floors: dict[str, Floor]) -> str:
    caption = "Ratio of the medians with its 95 % interval. Logarithmic scale."
    return f"{caption} A/A: the baseline against itself in the same session." if _twins(floors) else caption


def _twins(floors: dict[str, Floor]) -> bool:
    return any(f.twin for f in floors.values())


def _speedups(found: Index, setting: Setting) -> list[tuple[Candidate, Datum]]:
    return list(zip(found.built(), rows(found, "latency.p50", "speedup", setting), strict=True))


def _compared(found: Index, c: Candidate, d: Datum, noise: Floor | None, setting: Setting) -> Datum:
    """A row of the speed-ups: the baseline shows itself measured twice, the others whether they are noise."""
    if noise is None:
        return d
    m = found.get(c.name, "latency.p50", "speedup", setting)
    if m is None:
        if not noise.twin or not found.is_baseline(c) or noise.baseline != c.name:
            return d
        twin = datum(found, c, noise.twin)
        return replace(twin, text=f"A/A {twin.text}", origin=True)
    return replace(d, note=f"{d.note}, noise") if noise.touches(m) else d


def _distribution(found: Index, setting: Setting) -> Distribution | None:
    variants = list(dict.fromkeys(c.variant for c in found.built()))
    data = []
    for c in found.built():
        m = found.get(c.name, "latency.p50", "absolute", setting)
        if m and m.protocol.get("quantiles"):
            data.append((c, found.targets.index(c.target), variants.index(c.variant), m.protocol["quantiles"]))
    return plots.distribution(f"Distribution of the latency{f', {setting.label}' if setting.label else ''}", data)


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


def _timed(found: Index, c: Candidate, setting: Setting) -> Datum:
    m = found.get(c.name, "latency.p50", "absolute", setting)
    if m is None:
        return datum(found, c, None)
    tail = found.get(c.name, "latency.p95", "absolute", setting)
    taken = m.protocol.get("quantiles") or []
    ends = [plots.quantile(taken, share) for share in (0.05, 0.25, 0.75, 0.95)] if len(taken) >= 5 else []
    return replace(
        datum(found, c, m),
        note=f"p95 {numerals.bare(tail)}" if tail else "",
        quartiles=(ends[1], ends[2]) if ends else None,
        spread=(ends[0], ends[3]) if ends else None,
        tail=tail.value if tail else None,
    )


def _threads(found: Index, setting: Setting) -> str:
    own = (found.get(c.name, "latency.p50", "absolute", setting) for c in found.built())
    counts = sorted({int(m.at["threads"]) for m in own if m and "threads" in m.at})
    if not counts:
        return ""
    return f", {numerals.count(counts[0], 'thread')}" if len(counts) == 1 else f", {counts[0]} to {counts[-1]} threads"
