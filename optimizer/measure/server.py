"""Server scenario: latency percentiles while requests arrive at random at a given rate.

Open loop (see arrivals.py): a latency counts from the moment at which its request was due, so waiting in the queue is
in it. Per restart every subject is opened in a fresh process and gets the same arrivals; one runs at a time. The
first tenth of the arrivals fills the queue and does not count. The rest is cut into blocks of consecutive requests,
which the bootstrap draws whole: requests that waited in one queue resemble each other.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.console import Advance
from optimizer.errors import OptimizerError
from optimizer.measure import quantiles
from optimizer.measure.process import Subject, Worker
from optimizer.measure.together import Found, Launch, Party, Process, feeds_for, shuffled, side_by_side, threads
from optimizer.protocols import Feeds
from optimizer.values import Measurement, Relation

PERCENTILES = (50, 90, 99)
BLOCKS = 10
WARM_UP = 0.1
"""Share of the requests that are served before any counts."""
WARM_CALLS, WARM_SECONDS = 10, 0.3
MOST_REQUESTS = 200_000
PATIENCE = 2.0
"""After the last arrival a run may go on for so many times its length; what is then not served has waited for so long
at least. Only a server that cannot keep up needs it."""
LAG_SHARE, LAG_MS = 0.1, 2.0
"""The generator is too late when it typically begins a request later than this share of a service time, or one in a
hundred later than so many milliseconds."""


@dataclass(frozen=True)
class Plan:
    """What load the server scenario puts on its subjects."""

    callers: int
    seconds: float
    restarts: int
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    machine: str = ""


@dataclass
class Taken:
    """What one subject showed, restart by restart: nanoseconds."""

    latency: list[np.ndarray] = field(default_factory=list)
    service: list[float] = field(default_factory=list)
    lag: list[float] = field(default_factory=list)
    stopped: bool = False
    precision: str = ""
    boundary: str = ""

    def add(self, answer: Mapping[str, Any], skip: int) -> None:
        """Take in one run; the first `skip` requests do not count."""
        self.latency.append(np.maximum(np.asarray(answer["latency"][skip:], dtype=np.int64), 1))
        self.service += answer["service"]
        self.lag += answer["lag"]
        self.stopped = self.stopped or bool(answer["stopped"])


def under_rate(
    subjects: Sequence[Subject],
    baseline_of: Mapping[str, str | None],
    samples: Feeds,
    rate: float,
    plan: Plan,
    progress: Advance = lambda done, total: None,
    launch: Launch = Worker,
) -> Found:
    """Percentiles of every subject at `rate` requests per second, as far as the requests support them, and their
    speed-up against its baseline under the same arrivals.

    A subject whose process fails is named in `failures`. `remarks` say who could not keep up with the rate, and whose
    requests were begun too late. No process outlives the call.
    """
    found, size, skip = Found(), *requests(rate, plan)
    prepared = [side_by_side(subject, plan.callers) for subject in subjects]
    taken = {s.name: Taken() for s in prepared}
    with tempfile.TemporaryDirectory(prefix="optc-feeds-") as folder:
        feeds = feeds_for(prepared, samples, 1, plan.dims, Path(folder), "measure.server")
        party = Party(feeds, launch, found)
        for restart in range(plan.restarts):
            order = shuffled(plan.seed, "server", restart)
            settings = {
                "callers": plan.callers, "rate": rate, "count": size + skip, "seed": f"{plan.seed}/{restart}",
                "patience": int(PATIENCE * (size + skip) / rate * 1e9) + 1_000_000_000,
            }  # fmt: skip
            with ExitStack() as stack:
                for subject in party.alive(prepared, order):
                    with found.guard(subject.name):
                        process = warm(party.open(subject, stack), plan.callers)
                        taken[subject.name].add(process.load("server", **settings), skip)
                        taken[subject.name].precision = process.opened.precision
                        taken[subject.name].boundary = process.opened.boundary
                        process.close()
            progress(restart + 1, plan.restarts)
    drawing = quantiles.Resamples(quantiles.weights(plan.restarts, BLOCKS, plan.seed), plan.seed)
    for subject in prepared:
        if subject.name not in found.failures:
            base = baseline_of.get(subject.name)
            base = base if base in taken and base not in found.failures and base != subject.name else None
            found.measurements.extend(_numbers(subject, rate, plan, taken, base, drawing))
            found.remarks.extend(_remarks(subject.name, rate, plan, taken[subject.name]))
    return found


def requests(rate: float, plan: Plan) -> tuple[int, int]:
    """Requests per restart that count, a multiple of the blocks, and those before them that do not."""
    size = BLOCKS * max(1, math.ceil(rate * plan.seconds / plan.restarts / BLOCKS))
    if size > MOST_REQUESTS:
        raise OptimizerError(
            f"measure.server: {rate:,.0f} requests/s for {plan.seconds:g} s are {plan.restarts * size:,} requests, "
            f"the limit is {MOST_REQUESTS:,} per restart",
            "make measure.server.seconds shorter, or the rate lower",
        )
    return size, math.ceil(WARM_UP * size)


def warm(process: Process, callers: int) -> Process:
    """The process after enough calls to be warm."""
    first = process.load("offline", callers=callers, calls=WARM_CALLS, warmup=0)
    more = int(WARM_SECONDS * 1e9 * first["calls"] / max(1, first["wall"]))
    if more > WARM_CALLS:
        process.load("offline", callers=callers, calls=min(more, 5000), warmup=0)
    return process


def utilisation(service: Sequence[float], rate: float, callers: int) -> float:
    """The share of the callers' time that the arrivals ask for; at 1 and above the queue grows without end."""
    return float(rate * np.mean(service) / 1e9 / callers) if len(service) else math.inf


def generator(service: Sequence[float], lag: Sequence[float]) -> dict[str, Any]:
    """How exactly requests were begun when they were due and a caller was free, and whether that is good enough."""
    if not len(lag):
        return {"late": True}
    typical, high = (float(v) for v in np.quantile(lag, [0.5, 0.99]) / 1e6)
    limit = LAG_SHARE * float(np.median(service)) / 1e6
    return {"lag_p50_ms": typical, "lag_p99_ms": high, "late": typical > limit or high > LAG_MS}


def _numbers(
    subject: Subject,
    rate: float,
    plan: Plan,
    taken: Mapping[str, Taken],
    base: str | None,
    drawing: quantiles.Resamples,
) -> list[Measurement]:
    own = taken[subject.name]
    at = {"batch": 1, "streams": plan.callers, "threads": threads(subject), "rate": rate, **plan.dims}
    protocol = _protocol(rate, plan, taken, own, subject)
    found = []

    def add(percentile: int, relation: Relation, estimate: quantiles.Estimate, against: str | None) -> None:
        unit = "ms" if relation == "absolute" else "x"
        better: Any = "lower" if relation == "absolute" else "higher"
        found.append(
            Measurement(
                subject.name,
                f"server.p{percentile}",
                relation,
                estimate.value,
                estimate.low,
                estimate.high,
                times.size,
                unit,
                better,
                against,
                dict(at),
                dict(protocol),
                plan.machine,
            )
        )

    times = _blocks(own)
    for percentile in PERCENTILES:
        if times.size >= quantiles.support(percentile):
            add(percentile, "absolute", quantiles.quantile(times / 1e6, drawing, percentile), None)
            if base:
                other = _blocks(taken[base])
                add(percentile, "speedup", quantiles.quantile_ratio(other, times, drawing, percentile), base)
    return found


def _blocks(taken: Taken) -> np.ndarray:
    """Nanoseconds, (restarts, blocks, requests)."""
    return np.stack(taken.latency).reshape(len(taken.latency), BLOCKS, -1)


def _protocol(rate: float, plan: Plan, taken: Mapping[str, Taken], own: Taken, subject: Subject) -> dict[str, Any]:
    spread = "" if plan.restarts > 1 else "; one restart: the spread between processes is not in it"
    return {
        "scenario": "server",
        "defined": "from the moment a request is due to its answer: open loop, waiting in the queue is in it",
        "arrivals": f"Poisson, {rate:g} per second, one sample per request, first come first served",
        "boundary": own.boundary,
        "clock": "time.perf_counter_ns",
        "processes": "a fresh one per subject and restart; one runs at a time, all get the same arrivals",
        "together_with": sorted(taken),
        "order_seed": plan.seed,
        "restarts": plan.restarts,
        "rounds": BLOCKS,
        "seconds": plan.seconds,
        "warm_up": {"share_of_requests": WARM_UP},
        "service_p50_ms": float(np.median(own.service)) / 1e6 if own.service else None,
        "utilisation": utilisation(own.service, rate, plan.callers),
        "stopped": own.stopped,
        "generator": generator(own.service, own.lag),
        "options": subject.options,
        "precision": own.precision,
        "interval": f"95 %, bootstrap over restarts and blocks of consecutive requests, {quantiles.DRAWS} draws, log "
        f"scale, widened by Student's t for the number of restarts{spread}",
    }


def _remarks(name: str, rate: float, plan: Plan, taken: Taken) -> list[str]:
    found = []
    asked = utilisation(taken.service, rate, plan.callers)
    if taken.stopped or asked >= 1:
        found.append(
            f"{name}: {rate:g} requests per second ask for {100 * asked:.0f} % of its time; the queue grows for as "
            "long as the run lasts, and the latencies with it"
        )
    exact = generator(taken.service, taken.lag)
    if exact["late"] and "lag_p50_ms" in exact:
        found.append(
            f"{name}: requests were begun {exact['lag_p50_ms']:.3f} ms late as a rule and {exact['lag_p99_ms']:.3f} ms "
            "in one of a hundred (the machine was busy): its server latencies are too high by about that"
        )
    return found
