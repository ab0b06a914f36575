"""The highest arrival rate at which a percentile of the latency holds a bound: bracketing, then bisection.

A probe is a run of the server scenario at one rate, shared by all restarts of a subject, whose processes stay open
for the search. It holds or misses by a binomial test on the requests that took longer than the bound, or is undecided.
A rate that asks for more time than the callers have is missed, too: the queue then grows without end, and only the
length of the run keeps the latency within the bound. The value is the highest rate that held; the interval reaches
from it to the lowest rate that was surely missed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.console import Advance
from optimizer.measure import quantiles
from optimizer.measure.arrivals import Answer, answer, hopeless
from optimizer.measure.process import Subject, Worker
from optimizer.measure.server import MOST_REQUESTS, Plan, generator, utilisation, warm
from optimizer.measure.together import Found, Launch, Party, Process, feeds_for, shuffled, side_by_side, threads
from optimizer.protocols import Feeds
from optimizer.values import Measurement

METRIC = "server.rate"
FIRST, STEP, LOWEST = 0.5, 1.6, 0.02
"""The search starts at this share of the callers' capacity, moves by this factor until the bound is bracketed, and
gives up below this share, where requests hardly ever meet and no lower rate can help."""
WAY_UP = 10
"""Probes beyond the recipe's that may look for a rate that is missed."""
FINE = 1.05
"""The search ends when the lowest rate that did not hold is within this factor of the highest that did."""
REQUESTS = 2
"""A probe has so many times the requests that its percentile needs at least: a single late one then undecides none."""


@dataclass(frozen=True)
class Goal:
    """What must hold."""

    percentile: int
    bound_ms: float
    probes: int


@dataclass(frozen=True)
class Probe:
    """What one rate showed."""

    rate: float
    answer: Answer
    latency_ms: float  # at the percentile; of a probe that was ended early, of the requests until then
    requests: int
    late: int
    utilisation: float
    generator: Mapping[str, Any]


@dataclass(frozen=True)
class Bracket:
    """Where the search ended."""

    probes: tuple[Probe, ...]

    @property
    def held(self) -> Probe | None:
        """The highest rate that held and lies below every rate that was missed."""
        ceiling = self.missed.rate if self.missed else math.inf
        return max((p for p in self.probes if p.answer == "held" and p.rate < ceiling), key=_rate, default=None)

    @property
    def missed(self) -> Probe | None:
        """The lowest rate that was missed."""
        return min((p for p in self.probes if p.answer == "missed"), key=_rate, default=None)

    @property
    def slowest(self) -> Probe:
        return min(self.probes, key=_rate)


def _rate(probe: Probe) -> float:
    return probe.rate


def search(probe: Callable[[float], Probe], capacity: float, most: int) -> Bracket:
    """Try at most `most` rates. `capacity` is about the rate at which the callers have no time left.

    Upwards from half of it until a rate is missed, downwards until one holds, then between the highest that held and
    the lowest that did not, which is where an undecided rate counts.
    """
    bracket = Bracket((probe(FIRST * capacity),))
    # A search without an upper end says too little, so the way up may take more; it ends where time runs out.
    while len(bracket.probes) < most or (bracket.held and not bracket.missed and len(bracket.probes) < most + WAY_UP):
        rate = _next(bracket, capacity)
        if rate is None:
            break
        bracket = Bracket((*bracket.probes, probe(rate)))
    return bracket


def _next(bracket: Bracket, capacity: float) -> float | None:
    held = bracket.held
    if held is None:
        lower = bracket.slowest.rate / STEP**2
        return lower if lower >= LOWEST * capacity else None
    over = [p.rate for p in bracket.probes if p.rate > held.rate]
    if bracket.missed is None:
        return max([held.rate, *over]) * STEP
    ceiling = min(over)
    return math.sqrt(held.rate * ceiling) if ceiling > FINE * held.rate else None


def highest_rate(
    subjects: Sequence[Subject],
    baseline_of: Mapping[str, str | None],
    samples: Feeds,
    goal: Goal,
    plan: Plan,
    progress: Advance = lambda done, total: None,
    launch: Launch = Worker,
) -> Found:
    """`server.rate` of every subject, one after the other, and its ratio to the baseline's.

    Where no rate holds the bound the value is 0, and a remark tells the latency at the slowest. A subject whose
    process fails is named in `failures`. No process outlives the call.
    """
    found, brackets = Found(), dict[str, Bracket]()
    prepared = [side_by_side(subject, plan.callers) for subject in subjects]
    with tempfile.TemporaryDirectory(prefix="optc-feeds-") as folder:
        feeds = feeds_for(prepared, samples, 1, plan.dims, Path(folder), "measure.server")
        party = Party(feeds, launch, found)
        for place, subject in enumerate(party.alive(prepared, shuffled(plan.seed, "capacity"))):
            with found.guard(subject.name):
                brackets[subject.name] = _of_subject(subject, party, goal, plan)
            progress(place + 1, len(prepared))
    for subject in prepared:
        if subject.name in brackets:
            base = baseline_of.get(subject.name)
            other = brackets.get(base) if base and base != subject.name else None
            found.measurements.extend(_numbers(subject, brackets[subject.name], goal, plan, base, other))
            found.remarks.extend(_remarks(subject.name, brackets[subject.name], goal))
    return found


def _of_subject(subject: Subject, party: Party, goal: Goal, plan: Plan) -> Bracket:
    with ExitStack() as stack:
        processes = [warm(party.open(subject, stack), plan.callers) for _ in range(plan.restarts)]
        paces = [p.load("offline", callers=plan.callers, calls=30 * plan.callers, warmup=0) for p in processes]
        capacity = sum(p["calls"] for p in paces) / sum(p["wall"] for p in paces) * 1e9
        return search(lambda rate: run(processes, rate, goal, plan), capacity, goal.probes)


def run(processes: Sequence[Process], rate: float, goal: Goal, plan: Plan) -> Probe:
    """One probe: the processes take their share of the requests, one after the other."""
    share, bound = requests(rate, goal, plan), int(goal.bound_ms * 1e6)
    total = share * len(processes)
    enough = hopeless(total, goal.percentile)
    latency, service, lag = list[int](), list[int](), list[int]()
    late, ended = 0, False
    for place, process in enumerate(processes):
        answered = process.load(
            "server", callers=plan.callers, rate=rate, count=share, seed=f"{plan.seed}/{rate:.6g}/{place}",
            bound=bound, most_late=enough - late, patience=2 * bound + 1_000_000_000,
        )  # fmt: skip
        latency += answered["latency"]
        service += answered["service"]
        lag += answered["lag"]
        late = sum(ns > bound for ns in latency)
        ended = answered["stopped"] or late >= enough
        if ended:
            break  # settled, whatever the other processes would show
    asked = utilisation(service, rate, plan.callers)
    decided: Answer = "missed" if ended or asked >= 1 else answer(late, total, goal.percentile)
    at = float(np.quantile(latency, goal.percentile / 100)) / 1e6
    return Probe(rate, decided, at, len(latency), late, asked, generator(service, lag))


def requests(rate: float, goal: Goal, plan: Plan) -> int:
    """Requests per process: enough for the percentile, and for the seconds of the recipe."""
    enough = REQUESTS * quantiles.support(goal.percentile)
    return min(math.ceil(max(enough, rate * plan.seconds) / plan.restarts), MOST_REQUESTS)


def _numbers(
    subject: Subject, bracket: Bracket, goal: Goal, plan: Plan, base: str | None, other: Bracket | None
) -> list[Measurement]:
    value, low, high = _ends(bracket)
    at = {"batch": 1, "streams": plan.callers, "threads": threads(subject), **plan.dims}
    n = sum(p.requests for p in bracket.probes)
    protocol = {
        "scenario": "server",
        "defined": f"highest Poisson rate at which p{goal.percentile} from due to answered is within "
        f"{goal.bound_ms:g} ms",
        "percentile": goal.percentile,
        "bound_ms": goal.bound_ms,
        "probes": [vars(p) for p in bracket.probes],
        "restarts": plan.restarts,
        "processes": "fresh ones per subject, open for the whole search, which share the requests of every probe",
        "order_seed": plan.seed,
        "options": subject.options,
        "interval": "from the highest rate that held to the lowest that was missed, each at 95 % by a binomial test "
        "of its own that takes requests as independent",
        **({"remark": remark} if (remark := _unreached(bracket, goal)) else {}),
    }

    def made(relation: Any, numbers: tuple[float, float, float | None], unit: str, against: str | None) -> Measurement:
        first, lowest, highest = numbers
        return Measurement(
            subject.name, METRIC, relation, first, lowest, highest, n, unit, "higher", against, dict(at),
            dict(protocol), plan.machine,
        )  # fmt: skip

    found = [made("absolute", (value, low, high), "1/s", None)]
    if other is not None:
        value_, low_, high_ = _ends(other)
        if value_ > 0 and high_ and high:
            found.append(made("ratio", (value / value_, low / high_, high / low_), "x", base))
    return found


def _ends(bracket: Bracket) -> tuple[float, float, float]:
    """Value, low, high; where nothing was missed, the interval ends where the search did."""
    held, missed = bracket.held, bracket.missed
    value = held.rate if held else 0.0
    high = missed.rate if missed else max(p.rate for p in bracket.probes)
    return value, value, max(high, value)


def _unreached(bracket: Bracket, goal: Goal) -> str:
    """Why one end of the interval is no real one, or an empty text."""
    if bracket.held is None:
        p = bracket.slowest
        return (
            f"no rate holds the bound: at {p.rate:.3g} requests per second, the slowest tried, p{goal.percentile} is "
            f"{p.latency_ms:.3g} ms, the bound {goal.bound_ms:g} ms ({p.late} of {p.requests} requests late)"
        )
    if bracket.missed is None:
        return f"the search ended after {len(bracket.probes)} probes without a rate that misses the bound"
    return ""


def _remarks(name: str, bracket: Bracket, goal: Goal) -> list[str]:
    found = [f"{name}: {text}"] if (text := _unreached(bracket, goal)) else []
    late = [p for p in bracket.probes if p.generator["late"] and p.answer != "held"]
    if late and bracket.held is None:
        found.append(f"{name}: requests were begun late in {len(late)} of {len(bracket.probes)} probes (busy machine)")
    return found
