"""The highest arrival rate at which a percentile of the latency holds a bound: bracketing, then bisection.

A probe is a run of the server scenario at one rate, shared by all restarts of a subject, whose processes stay open
for the search. It holds or misses by a binomial test on the requests that took longer than the bound, or is undecided
(see arrivals.py: the late ones come in crowds).
A rate that asks for more time than the callers have is missed, too: the queue then grows without end, and only the
length of the run keeps the latency within the bound. The value is the highest rate that held; the interval reaches
from it to the lowest rate that was surely missed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.console import Advance
from optimizer.measure import quantiles
from optimizer.measure.arrivals import Answer, answer, crowding, hopeless
from optimizer.measure.process import Subject, Worker
from optimizer.measure.server import MOST_REQUESTS, WARM_UP, Plan, generator, utilisation, warm
from optimizer.measure.together import Found, Launch, Party, Process, feeds_for, shuffled, side_by_side, threads
from optimizer.protocols import Feeds
from optimizer.values import Measurement

METRIC = "server.rate"
CALM = 0.2
"""The utilisation up to which callers hardly disturb each other's service."""
FIRST, STEP, LOWEST = 0.5, 1.6, 0.02
"""The search starts at this share of the callers' capacity, moves by this factor until the bound is bracketed, and
gives up below this share, where requests hardly ever meet and no lower rate can help."""
CONFIRMATIONS = 6
"""Probes after the search: second looks at rates that held, or were missed, and would be an end of the bracket."""
WAY_UP = 10
"""Probes beyond the recipe's that may look for a rate that is missed."""
FINE = 1.05
"""The search ends when the lowest rate that did not hold is within this factor of the highest that did."""
REQUESTS, FURTHER = 3, 3
"""A probe has so many times the requests that its percentile needs at least, as late ones come in crowds; and then so
many times as many again where they have decided nothing."""


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
    crowding: float  # late requests that count as one, because they waited in the same queue
    utilisation: float
    generator: Mapping[str, Any]
    futile: bool = False  # hardly loaded, and yet the service alone surely misses the bound: no lower rate can help


@dataclass(frozen=True)
class Bracket:
    """Where the search stands. A rate whose probes contradict each other is undecided."""

    probes: tuple[Probe, ...]

    @property
    def held(self) -> Probe | None:
        """The highest rate that held and lies below every rate that was missed."""
        ceiling = self.missed.rate if self.missed else math.inf
        return max((p for p in self._agreed("held") if p.rate < ceiling), key=_rate, default=None)

    @property
    def missed(self) -> Probe | None:
        """The lowest rate that was missed."""
        return min(self._agreed("missed"), key=_rate, default=None)

    @property
    def slowest(self) -> Probe:
        return min(self.probes, key=_rate)

    def at(self, rate: float) -> list[Probe]:
        """The probes of one rate."""
        return [p for p in self.probes if p.rate == rate]

    def _agreed(self, answer: Answer) -> list[Probe]:
        return [p for p in self.probes if all(q.answer == answer for q in self.at(p.rate))]


def _rate(probe: Probe) -> float:
    return probe.rate


def search(probe: Callable[[float, int], Probe], capacity: float, most: int) -> Bracket:
    """Try at most `most` rates, then both ends of the bracket once more. `probe(rate, number)` tries one of them.

    `capacity` is about the rate at which the callers have no time left. Upwards from half of it until a rate is missed,
    downwards until one holds, then between the highest that held and the lowest that did not, where an undecided rate
    counts as one that did not. Of many noisy probes the search picks the luckiest: hence the second look at the ends.
    """
    bracket = Bracket((probe(FIRST * capacity, 0),))
    # A search without an upper end says too little, so the way up may take more; it ends where time runs out.
    while len(bracket.probes) < most or (bracket.held and not bracket.missed and len(bracket.probes) < most + WAY_UP):
        rate = _next(bracket, capacity)
        if rate is None:
            break
        bracket = Bracket((*bracket.probes, probe(rate, len(bracket.probes))))
    for _ in range(CONFIRMATIONS):
        once = [p.rate for p in (bracket.held, bracket.missed) if p and len(bracket.at(p.rate)) == 1]
        if not once and bracket.held and not bracket.missed:  # every miss was taken back: further up
            once = [rate for rate in [_next(bracket, capacity)] if rate]
        if not once:
            break
        bracket = Bracket((*bracket.probes, probe(once[0], len(bracket.probes))))
    return bracket


def _next(bracket: Bracket, capacity: float) -> float | None:
    held = bracket.held
    if held is None:
        if bracket.slowest.futile:
            return None
        lower = bracket.slowest.rate / STEP**2
        return lower if lower >= LOWEST * capacity else None
    over = [p.rate for p in bracket.probes if p.rate > held.rate]
    if bracket.missed is None:
        return max([held.rate, *over]) * STEP
    ceiling = min(over)
    return math.sqrt(held.rate * ceiling) if ceiling > FINE * held.rate else None


def highest_rate(
    subjects: Sequence[Subject],
    samples: Feeds,
    goal: Goal,
    plan: Plan,
    progress: Advance = lambda done, total: None,
    launch: Launch = Worker,
) -> Found:
    """`server.rate` of every subject, one after the other. They are not compared: each is searched in its own minutes.

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
            found.measurements.append(_number(subject, brackets[subject.name], goal, plan))
            found.remarks.extend(_remarks(subject.name, brackets[subject.name], goal))
    return found


def _of_subject(subject: Subject, party: Party, goal: Goal, plan: Plan) -> Bracket:
    with ExitStack() as stack:
        processes = [warm(party.open(subject, stack), plan.callers) for _ in range(plan.restarts)]
        paces = [p.load("offline", callers=plan.callers, calls=30 * plan.callers, warmup=0) for p in processes]
        capacity = sum(p["calls"] for p in paces) / sum(p["wall"] for p in paces) * 1e9
        return search(lambda rate, number: run(processes, rate, goal, plan, number), capacity, goal.probes)


def run(processes: Sequence[Process], rate: float, goal: Goal, plan: Plan, number: int) -> Probe:
    """One probe: the processes take their share of the requests in turn; more of them where that decides nothing."""
    seen = _Seen()
    share = requests(rate, goal, plan)
    _serve(seen, processes, rate, share, goal, plan, f"{number}.0")
    probe = _judged(seen, rate, goal, plan)
    if probe.answer == "undecided":
        _serve(seen, processes, rate, min(FURTHER * share, MOST_REQUESTS), goal, plan, f"{number}.1")
        probe = _judged(seen, rate, goal, plan)
    return probe


@dataclass
class _Seen:
    """What the runs of one probe brought, nanoseconds."""

    latency: list[int] = field(default_factory=list)
    service: list[int] = field(default_factory=list)
    lag: list[int] = field(default_factory=list)
    stopped: bool = False


def _serve(
    seen: _Seen, processes: Sequence[Process], rate: float, share: int, goal: Goal, plan: Plan, look: str
) -> None:
    """Serve `share` requests in each process, after some that fill the queue; ends when the bound is surely missed."""
    bound, skip = int(goal.bound_ms * 1e6), math.ceil(WARM_UP * share)
    for place, process in enumerate(processes):
        answered = process.load(
            "server", callers=plan.callers, rate=rate, count=share + skip,
            seed=f"{plan.seed}/{place}/{look}", bound=bound,
            most_late=hopeless(share * len(processes), goal.percentile), patience=2 * bound + 1_000_000_000,
        )  # fmt: skip
        seen.stopped = bool(answered["stopped"])
        # Of a run that ended early every request counts: there may be none after those that fill the queue.
        seen.latency += answered["latency"] if seen.stopped else answered["latency"][skip:]
        seen.service += answered["service"]
        seen.lag += answered["lag"]
        if seen.stopped:
            return


def _judged(seen: _Seen, rate: float, goal: Goal, plan: Plan) -> Probe:
    late = sum(ns > goal.bound_ms * 1e6 for ns in seen.latency)
    asked = utilisation(seen.service, rate, plan.callers)
    crowded = crowding(seen.latency, goal.percentile)
    decided: Answer = answer(late, len(seen.latency), goal.percentile, crowded)
    if seen.stopped or asked >= 1:
        decided = "missed"
    at = float(np.quantile(seen.latency, goal.percentile / 100)) / 1e6
    slow = sum(ns > goal.bound_ms * 1e6 for ns in seen.service)
    futile = asked <= CALM and answer(slow, len(seen.service), goal.percentile) == "missed"
    exact = generator(seen.service, seen.lag)
    return Probe(rate, decided, at, len(seen.latency), late, crowded, asked, exact, futile)


def requests(rate: float, goal: Goal, plan: Plan) -> int:
    """Requests per process: enough for the percentile, and for the seconds of the recipe."""
    enough = REQUESTS * quantiles.support(goal.percentile)
    return min(math.ceil(max(enough, rate * plan.seconds) / plan.restarts), MOST_REQUESTS)


def _number(subject: Subject, bracket: Bracket, goal: Goal, plan: Plan) -> Measurement:
    value, low, high = _ends(bracket)
    at = {"batch": 1, "streams": plan.callers, "threads": threads(subject), **plan.dims}
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
        "interval": "a bracket: from the highest rate that held to the lowest that was missed, both twice, each time "
        "at 95 % by a binomial test in which late requests of one crowd count as one",
        **({"remark": remark} if (remark := _unreached(bracket, goal)) else {}),
    }
    n = sum(p.requests for p in bracket.probes)
    return Measurement(
        subject.name, METRIC, "absolute", value, low, high, n, "1/s", "higher", None, at, protocol, plan.machine
    )


def _ends(bracket: Bracket) -> tuple[float, float, float]:
    """Value, low, high; where nothing was surely missed, the interval ends where the callers have no time left."""
    held, missed = bracket.held, bracket.missed
    if held is None and bracket.slowest.futile:
        return 0.0, 0.0, 0.0
    value = held.rate if held else 0.0
    high = missed.rate if missed else max(p.rate / min(1.0, p.utilisation) for p in bracket.probes)
    return value, value, max(high, value)


def _unreached(bracket: Bracket, goal: Goal) -> str:
    """Why one end of the interval is no real one, or an empty text."""
    if bracket.held is None:
        p = bracket.slowest
        which = "no rate" if p.futile else "no rate that was tried"
        return (
            f"{which} holds the bound: at the slowest, {_shown(p.rate)} requests per second, "
            f"p{goal.percentile} is {p.latency_ms:.3g} ms and the bound {goal.bound_ms:g} ms "
            f"({p.late} of {p.requests} requests late)"
        )
    if bracket.missed is None:
        return (
            f"none of the {len(bracket.probes)} probes was missed for sure; the upper end is the rate at which the "
            "callers would have no time left"
        )
    return ""


def _remarks(name: str, bracket: Bracket, goal: Goal) -> list[str]:
    found = [f"{name}: {text}"] if (text := _unreached(bracket, goal)) else []
    late = [p for p in bracket.probes if p.generator["late"] and p.answer != "held"]
    if late and bracket.held is None:
        found.append(f"{name}: requests were begun late in {len(late)} of {len(bracket.probes)} probes (busy machine)")
    return found


def _shown(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
