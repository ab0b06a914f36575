"""What the call times of a subject say: percentiles, throughput, load time, each with interval and protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimizer.measure import diagnosis, quantiles, ratios
from optimizer.measure.memory import peak_measurements
from optimizer.measure.process import Opened
from optimizer.measure.quantiles import PERCENTILES, Estimate, Resamples
from optimizer.values import Better, Measurement, Relation

UNITS: dict[tuple[str, Relation], tuple[str, Better]] = {
    ("latency", "absolute"): ("ms", "lower"),
    ("latency", "speedup"): ("x", "higher"),
    ("throughput", "absolute"): ("1/s", "higher"),
    ("throughput", "ratio"): ("x", "higher"),
    ("latency.aa", "speedup"): ("x", "higher"),
    ("cold.start", "absolute"): ("ms", "lower"),
    ("cold.start", "ratio"): ("x", "lower"),
    ("load.time", "absolute"): ("ms", "lower"),
    ("load.time", "ratio"): ("x", "lower"),
}


@dataclass
class Taken:
    """What one subject showed at one batch size, restart by restart."""

    opened: list[Opened] = field(default_factory=list)
    first: list[int] = field(default_factory=list)  # ns of the first call of each process
    blocks: list[list[np.ndarray]] = field(default_factory=list)  # restarts x rounds x calls, ns
    peaks: list[int] = field(default_factory=list)  # bytes

    @property
    def times(self) -> np.ndarray:
        """Nanoseconds, (restarts, rounds, calls)."""
        return np.maximum(np.asarray(self.blocks, dtype=np.int64), 1)


@dataclass(frozen=True)
class View:
    """What the measurements of one subject at one setting have in common."""

    subject: str
    at: dict[str, Any]
    protocol: dict[str, Any]
    machine: str

    def number(self, metric: str, relation: Relation, found: Estimate, n: int, **more: Any) -> Measurement:
        unit, better = UNITS[metric.partition(".p")[0], relation]
        return Measurement(
            self.subject, metric, relation, found.value, found.low, found.high, n, unit, better,
            more.get("against"), dict(self.at), self.protocol | more.get("protocol", {}), self.machine,
        )  # fmt: skip


def of_subject(
    view: View, taken: Taken, base: tuple[str, Taken] | None, noise: Measurement | None, drawing: Resamples
) -> list[Measurement]:
    """Everything that is known of one subject at one setting, ratios to `base` (name, its times) included.

    `noise`: the A/A measurement of what it is compared with, or of itself.
    """
    found = [
        *_latencies(view, taken, base, drawing, noise),
        *_throughput(view, taken, base, drawing),
        *_opening(view, taken, base, drawing.level),
    ]
    before = [opened.rss_before for opened in taken.opened]
    peaks = (base[0], base[1].peaks) if base else None
    return [*found, *peak_measurements(view.subject, taken.peaks, before, peaks, view.at, view.machine)]


def noise_of(view: View, taken: Taken, twin: Taken, drawing: Resamples) -> Measurement:
    """A/A: how far a subject lies from a second set of processes of itself, by the method of every other ratio."""
    found = ratios.median_ratio(twin.times, taken.times, drawing.seed, drawing.level)
    protocol = {"defined": f"the subject against a second set of processes of itself; {ratios.METHOD}"}
    return view.number("latency.aa", "speedup", found, taken.times.size, against=view.subject, protocol=protocol)


def _latencies(
    view: View, taken: Taken, base: tuple[str, Taken] | None, drawing: Resamples, noise: Measurement | None
) -> Iterator[Measurement]:
    """Percentiles in ms as far as the number of calls supports them, and the speed-up of each."""
    times = taken.times
    protocol = {"calls_per_block": times.shape[2], "first_call": [ns / 1e6 for ns in taken.first]}
    for percentile in PERCENTILES:
        needed = quantiles.support(percentile)
        if times.size < needed:
            continue
        metric = f"latency.p{percentile}"
        found = quantiles.quantile(times / 1e6, drawing, percentile)
        chart = _chart(times / 1e6, noise) if percentile == 50 else {}
        yield view.number(metric, "absolute", found, times.size, protocol=protocol | chart)
        if base and base[1].times.size >= needed:
            quotient, how = _speedup(base[1].times, times, drawing, percentile)
            how = how | _unlike(taken, base[1])
            n = min(times.size, base[1].times.size)
            yield view.number(metric, "speedup", quotient, n, against=base[0], protocol=protocol | how)


def _unlike(taken: Taken, base: Taken) -> dict[str, Any]:
    """How the baseline's calls are timed where that is otherwise: a ratio that does not compare like with like."""
    own, other = taken.opened[0], base.opened[0]
    if (own.clock, own.boundary) == (other.clock, other.boundary):
        return {}
    return {"baseline_timed": f"by {other.clock}, {other.boundary}; that is not what is timed here"}


def _speedup(
    above: np.ndarray, below: np.ndarray, drawing: Resamples, percentile: int
) -> tuple[Estimate, dict[str, Any]]:
    if percentile == 50:
        return ratios.median_ratio(above, below, drawing.seed, drawing.level), {"defined": ratios.METHOD}
    return quantiles.quantile_ratio(above, below, drawing, percentile), {
        "defined": "the percentile of all calls of the baseline over the same percentile of this subject"
    }


def _chart(times: np.ndarray, noise: Measurement | None) -> dict[str, Any]:
    """What charts and readers want to know beside the median, times in ms.

    101 quantiles from the fastest call to the slowest, the median of each restart, and what `diagnosis` sees.
    `noise_floor` is the relative difference that two identical artifacts may show here with 95 % confidence: of the
    A/A pair where there is one, else from the spread of the restarts. A speed-up within it is none.
    """
    medians = np.median(times.reshape(len(times), -1), axis=1)
    dependence, independent = diagnosis.autocorrelation(times)
    facts: dict[str, Any] = {
        "quantiles": [float(v) for v in np.quantile(times, np.linspace(0, 1, 101))],
        "restart_p50": [float(v) for v in medians],
        "drift": round(diagnosis.drift(times), 5),
        "autocorrelation": round(dependence, 4),
        "effective_n": independent,
        "modes": diagnosis.modes(times),
    }
    if noise is not None and noise.low is not None and noise.high is not None:
        facts["noise_floor"] = max(noise.high, 1 / noise.low) - 1
    elif len(medians) > 1:
        facts["noise_floor"] = quantiles.noise_floor(medians)
    return facts


def _throughput(view: View, taken: Taken, base: tuple[str, Taken] | None, drawing: Resamples) -> Iterator[Measurement]:
    """Samples per second of one caller who sends the next call at once: batch x calls / time spent in them."""
    protocol = {"defined": "batch x calls / time spent in calls, one caller, the next call sent at once"}
    times, scale = taken.times, view.at["batch"] * 1e9
    found = quantiles.rate(times, drawing)
    each = Estimate(found.value * scale, found.low * scale, found.high * scale)
    yield view.number("throughput", "absolute", each, times.size, protocol=protocol)
    if base:
        quotient = quantiles.rate_ratio(times, base[1].times, drawing)
        n = min(times.size, base[1].times.size)
        yield view.number("throughput", "ratio", quotient, n, against=base[0], protocol=protocol)


def _opening(view: View, taken: Taken, base: tuple[str, Taken] | None, level: float) -> Iterator[Measurement]:
    """Load time, and cold start: load time and the first call. One restart says nothing of the next: not reported."""
    if len(taken.opened) < 2:
        return
    yield from _over_restarts(view, "load.time", LOADED, _loads(taken), base and (base[0], _loads(base[1])), level)
    yield from _over_restarts(view, "cold.start", STARTED, _starts(taken), base and (base[0], _starts(base[1])), level)


LOADED = (
    "from the call that opens the artifact to a ready session, in a fresh process: the import of the runtime is in it; "
    "files are in the page cache after the first restart"
)
STARTED = (
    "from the call that opens the artifact to its first result, in a fresh process whose Python and inputs are loaded"
)


def _loads(taken: Taken) -> list[float]:
    return [opened.load_ns / 1e6 for opened in taken.opened]


def _starts(taken: Taken) -> list[float]:
    return [load + first / 1e6 for load, first in zip(_loads(taken), taken.first, strict=True)]


def _over_restarts(
    view: View, metric: str, boundary: str, values: list[float], base: tuple[str, list[float]] | None, level: float
) -> Iterator[Measurement]:
    protocol = {
        "boundary": boundary,
        "interval": "Student's t over restarts, log scale",
        "summary": "geometric mean of the restarts",
    }
    yield view.number(metric, "absolute", quantiles.of_restarts(values, level), len(values), protocol=protocol)
    if base:
        found = quantiles.of_restarts([a / b for a, b in zip(values, base[1], strict=True)], level)
        yield view.number(metric, "ratio", found, len(values), against=base[0], protocol=protocol)
