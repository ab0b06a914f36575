"""Tries runtime settings of one candidate and picks the best: threads for latency; threads, callers and batch size for
throughput. What lies inside the interval of the best is as good as it, and then the one that takes fewer cores wins.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from optimizer.console import Advance
from optimizer.errors import OptimizerError
from optimizer.measure import latency, offline
from optimizer.measure.offline import METRIC
from optimizer.measure.process import Subject, Worker
from optimizer.measure.together import Found, Launch
from optimizer.protocols import Feeds
from optimizer.recipe import LatencySpec
from optimizer.specs import SweepSpec
from optimizer.values import Measurement, Setting

Objective = Literal["latency", "throughput"]


@dataclass(frozen=True)
class Point:
    """One setting: threads per inference, callers at once, samples per call."""

    threads: int
    streams: int
    batch: int

    @property
    def cores(self) -> int:
        return self.threads * self.streams

    def __str__(self) -> str:
        return f"threads={self.threads} streams={self.streams} batch={self.batch}"


@dataclass(frozen=True)
class Tried:
    """A setting with what was measured there; `better` says which side of `number.value` is good."""

    point: Point
    number: Measurement


@dataclass(frozen=True)
class Swept:
    """The best settings of one candidate, and what was left out or failed, in words."""

    settings: tuple[Setting, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measures:
    """The two measurements that a sweep is made of, so that tests can put others in their place."""

    latency: Callable[..., list[Measurement]] = latency.measure
    offline: Callable[..., Found] = offline.measure
    launch: Launch = field(default=Worker)


def points(spec: SweepSpec, cores: int) -> tuple[list[Point], list[Point]]:
    """The settings that fit the cores of this machine, and those that do not; fewest cores first."""
    found = [
        Point(*each)
        for each in itertools.product(*(dict.fromkeys(v) for v in (spec.threads, spec.streams, spec.batch)))
    ]
    found.sort(key=lambda p: (p.cores, p.threads, p.batch))
    return [p for p in found if p.cores <= cores], [p for p in found if p.cores > cores]


def left_out(spec: SweepSpec, cores: int) -> str | None:
    """A sentence about the settings that need more cores than there are, or None."""
    beyond = dict.fromkeys((p.threads, p.streams) for p in points(spec, cores)[1])
    if not beyond:
        return None
    listed = ", ".join(f"{t} threads x {s} streams" for t, s in beyond)
    return f"sweep: left out because this machine has {cores} cores: {listed}"


def sweep(
    subject: Subject,
    samples: Feeds,
    spec: SweepSpec,
    cores: int,
    seed: int,
    machine_digest: str,
    progress: Advance = lambda done, total: None,
    measures: Measures | None = None,
) -> Swept:
    """The best setting of a candidate for latency and for throughput. A setting whose process fails is named."""
    measures = measures or Measures()
    fitting, _ = points(spec, cores)
    batches = len(dict.fromkeys(spec.batch))
    remarks: list[str] = []
    calm = list(dict.fromkeys(p.threads for p in fitting))
    quick = _latencies(
        subject, calm, samples, spec, seed, machine_digest, measures, remarks, _part(progress, 0, batches)
    )
    busy = _throughputs(
        subject, fitting, samples, spec, seed, machine_digest, measures, remarks, _part(progress, 1, batches)
    )
    found = [_setting(subject, "latency", quick), _setting(subject, "throughput", busy)]
    return Swept(tuple(s for s in found if s), tuple(remarks))


def _with(subject: Subject, name: str, threads: int) -> Subject:
    """The subject with so many threads; how many streams its runtime opens is left to the number of callers."""
    free = {"streams": None} if "streams" in subject.options else {}
    return replace(subject, name=name, options={**subject.options, **free, "threads": threads})


def _part(progress: Advance, place: int, batches: int) -> Advance:
    """Progress in thousandths: latency is one part, each batch size of throughput another."""
    shares = (0, 1000 // (1 + batches), 1000)
    return lambda done, total: progress(
        shares[place] + (shares[place + 1] - shares[place]) * done // max(total, 1), 1000
    )


def _latencies(
    subject: Subject,
    counts: Sequence[int],
    samples: Feeds,
    spec: SweepSpec,
    seed: int,
    machine_digest: str,
    measures: Measures,
    remarks: list[str],
    progress: Advance,
) -> list[Tried]:
    """The median latency of one sample by number of threads."""
    named = {f"{subject.name} threads={n}": n for n in counts}
    subjects = [_with(subject, name, n) for name, n in named.items()]
    limits = LatencySpec(
        batch=[1], seconds=spec.seconds, restarts=spec.restarts, most_restarts=spec.restarts, precision=None,
        dims=spec.dims or {},
    )  # fmt: skip
    try:
        found = measures.latency(
            subjects, dict.fromkeys(named), samples, limits, seed, machine_digest, progress, measures.launch
        )
    except OptimizerError as error:
        remarks.append(f"sweep: no setting for latency: {error.message}")
        return []
    return [
        Tried(Point(named[m.subject], 1, 1), m)
        for m in found
        if (m.metric, m.relation) == ("latency.p50", "absolute") and m.subject in named
    ]


def _throughputs(
    subject: Subject,
    fitting: Sequence[Point],
    samples: Feeds,
    spec: SweepSpec,
    seed: int,
    machine_digest: str,
    measures: Measures,
    remarks: list[str],
    progress: Advance,
) -> list[Tried]:
    """The throughput of every setting; those of one batch size are measured side by side."""
    ways = dict.fromkeys((p.threads, p.streams) for p in fitting)
    named = {f"{subject.name} threads={t} streams={s}": (t, s) for t, s in ways}
    subjects = [_with(subject, name, t) for name, (t, _) in named.items()]
    plan = offline.Plan(
        spec.batch, spec.seconds, spec.restarts, spec.dims or {}, seed, machine_digest, where="measure.sweep"
    )
    callers = {name: s for name, (_, s) in named.items()}
    try:
        found = measures.offline(subjects, callers, {}, samples, plan, progress, measures.launch)
    except OptimizerError as error:
        remarks.append(f"sweep: no setting for throughput: {error.message}")
        return []
    remarks += [f"sweep: {error.message}" for error in found.failures.values()]
    numbers = [m for m in found.measurements if (m.metric, m.relation) == (METRIC, "absolute")]
    return [Tried(Point(*named[m.subject], m.at["batch"]), m) for m in numbers]


def best(tried: Iterable[Tried]) -> Tried | None:
    """The best setting; among those whose interval overlaps its own, the one with the fewest cores, then callers, then
    the smallest batch."""
    found = list(tried)
    if not found:
        return None
    sign = -1 if found[0].number.better == "lower" else 1
    top = max(found, key=lambda t: sign * t.number.value)
    as_good = [t for t in found if _overlap(t.number, top.number)]
    return min(as_good, key=lambda t: (t.point.cores, t.point.streams, t.point.batch))


def _overlap(one: Measurement, other: Measurement) -> bool:
    (a, b), (c, d) = _ends(one), _ends(other)
    return a <= d and c <= b


def _ends(m: Measurement) -> tuple[float, float]:
    return (m.value if m.low is None else m.low, m.value if m.high is None else m.high)


def _setting(subject: Subject, objective: Objective, tried: Sequence[Tried]) -> Setting | None:
    chosen = best(tried)
    if chosen is None:
        return None
    m, point = chosen.number, chosen.point
    opened = m.protocol.get("options", {})
    own: dict[str, Any] = {"threads": point.threads} | ({"streams": point.streams} if objective == "throughput" else {})
    options = own | {n: value for n, value in opened.items() if n not in own and value != subject.options.get(n)}
    return Setting(
        subject.name, objective, options, point.batch, m.value, m.low, m.high, m.unit,
        {"n": m.n, "metric": m.metric, "tried": [_entry(t) for t in tried]},
    )  # fmt: skip


def _entry(tried: Tried) -> Mapping[str, Any]:
    m = tried.number
    return {**vars(tried.point), "value": m.value, "low": m.low, "high": m.high, "n": m.n}
