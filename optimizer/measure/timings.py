"""What the call times of a subject say: percentiles, throughput, load time, each with interval and protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from optimizer.measure import quantiles
from optimizer.measure.memory import peak_measurements
from optimizer.measure.process import Opened
from optimizer.measure.quantiles import PERCENTILES, Estimate
from optimizer.values import Better, Measurement, Relation

UNITS: dict[tuple[str, Relation], tuple[str, Better]] = {
    ("latency", "absolute"): ("ms", "lower"),
    ("latency", "speedup"): ("x", "higher"),
    ("throughput", "absolute"): ("1/s", "higher"),
    ("throughput", "ratio"): ("x", "higher"),
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


def of_subject(view: View, taken: Taken, base: tuple[str, Taken] | None, weight: np.ndarray) -> list[Measurement]:
    """Everything that is known of one subject at one setting, ratios to `base` (name, its times) included."""
    found = [*_latencies(view, taken, base, weight), *_throughput(view, taken, base, weight), *_load(view, taken, base)]
    before = [opened.rss_before for opened in taken.opened]
    peaks = (base[0], base[1].peaks) if base else None
    return [*found, *peak_measurements(view.subject, taken.peaks, before, peaks, view.at, view.machine)]


def _latencies(view: View, taken: Taken, base: tuple[str, Taken] | None, weight: np.ndarray) -> Iterator[Measurement]:
    """Percentiles in ms as far as the number of calls supports them, and the speed-up of each."""
    times = taken.times
    protocol = {"calls_per_block": times.shape[2], "first_call": [ns / 1e6 for ns in taken.first]}
    for percentile in PERCENTILES:
        needed = quantiles.support(percentile)
        if times.size < needed:
            continue
        metric = f"latency.p{percentile}"
        found = quantiles.quantile(times / 1e6, weight, percentile)
        chart = _chart(times / 1e6) if percentile == 50 else {}
        yield view.number(metric, "absolute", found, times.size, protocol=protocol | chart)
        if base and base[1].times.size >= needed:
            quotient = quantiles.quantile_ratio(base[1].times, times, weight, percentile)
            n = min(times.size, base[1].times.size)
            yield view.number(metric, "speedup", quotient, n, against=base[0], protocol=protocol)


def _chart(times: np.ndarray) -> dict[str, Any]:
    """What a chart draws: 21 quantiles from the fastest call to the slowest, and the median of each restart, in ms.

    `noise_floor` is the relative difference that two identical artifacts may show here with 95 % confidence, when
    measured by as many restarts: a speed-up within it is none.
    """
    medians = np.median(times.reshape(len(times), -1), axis=1)
    facts: dict[str, Any] = {
        "quantiles": [float(v) for v in np.quantile(times, np.linspace(0, 1, 21))],
        "restart_p50": [float(v) for v in medians],
    }
    if len(medians) > 1:
        facts["noise_floor"] = quantiles.noise_floor(medians)
    return facts


def _throughput(view: View, taken: Taken, base: tuple[str, Taken] | None, weight: np.ndarray) -> Iterator[Measurement]:
    """Samples per second of one caller who sends the next call at once: batch x calls / time spent in them."""
    protocol = {"defined": "batch x calls / time spent in calls, one caller, the next call sent at once"}
    times, scale = taken.times, view.at["batch"] * 1e9
    found = quantiles.rate(times, weight)
    each = Estimate(found.value * scale, found.low * scale, found.high * scale)
    yield view.number("throughput", "absolute", each, times.size, protocol=protocol)
    if base:
        quotient = quantiles.rate_ratio(times, base[1].times, weight)
        n = min(times.size, base[1].times.size)
        yield view.number("throughput", "ratio", quotient, n, against=base[0], protocol=protocol)


def _load(view: View, taken: Taken, base: tuple[str, Taken] | None) -> Iterator[Measurement]:
    """Load time over restarts; not reported for one restart, which says nothing of the next."""
    if len(taken.opened) < 2:
        return
    protocol = {
        "boundary": "from the call that opens the artifact to a ready session, in a fresh process: the import of the "
        "runtime is in it; files are in the page cache after the first restart",
        "interval": "Student's t over restarts, log scale",
        "summary": "geometric mean of the restarts",
    }
    loads = [opened.load_ns / 1e6 for opened in taken.opened]
    yield view.number("load.time", "absolute", quantiles.of_restarts(loads), len(loads), protocol=protocol)
    if base:
        quotients = [load * 1e6 / opened.load_ns for load, opened in zip(loads, base[1].opened, strict=True)]
        found = quantiles.of_restarts(quotients)
        yield view.number("load.time", "ratio", found, len(loads), against=base[0], protocol=protocol)
