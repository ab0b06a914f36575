"""Offline scenario: samples per second when several callers send batch after batch, by batch size.

MLPerf's offline scenario gives the system all samples at once; here every caller always has its next batch at hand.
Like latency it is measured in fresh processes, all subjects side by side: in each round every subject runs one block
of as much work as in the other rounds, in an order drawn anew, while the others sleep.
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
from optimizer.measure import quantiles
from optimizer.measure.process import Subject, Worker
from optimizer.measure.quantiles import Estimate
from optimizer.measure.together import Found, Launch, Party, Process, feeds_for, shuffled, side_by_side, threads
from optimizer.protocols import Feeds
from optimizer.values import Measurement

ROUNDS = 10
LEAST_ROUNDS = 3
MOST_CALLS = 20_000
BLOCK_WARM_UP = 0.1
"""Share of a block's calls that are made, on top, before it counts."""
METRIC = "offline.throughput"


@dataclass(frozen=True)
class Plan:
    """How long offline throughput is measured, and on what."""

    batch: Sequence[int]
    seconds: float
    restarts: int
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    machine: str = ""
    where: str = "measure.offline"


@dataclass
class _Taken:
    """What one subject showed at one batch size: nanoseconds of wall clock per call over all callers."""

    per_call: list[list[float]] = field(default_factory=list)  # restarts x rounds
    calls: float = 0.0
    precision: str = ""
    boundary: str = ""


def measure(
    subjects: Sequence[Subject],
    callers: Mapping[str, int],
    baseline_of: Mapping[str, str | None],
    samples: Feeds,
    plan: Plan,
    progress: Advance = lambda done, total: None,
    launch: Launch = Worker,
) -> Found:
    """Throughput of every subject at every batch size, `callers[name]` at once, and its ratio to its baseline.

    A subject whose process fails is named in `failures` and has no number; the others keep theirs. Raises
    OptimizerError when the batch size does not fit a model. No process outlives the call.
    """
    batches = list(dict.fromkeys(plan.batch))
    prepared = [side_by_side(subject, callers[subject.name]) for subject in subjects]
    found = Found()
    for place, batch in enumerate(batches):
        share = _shares(place, len(batches), plan.restarts, progress)
        with tempfile.TemporaryDirectory(prefix="optc-feeds-") as folder:
            feeds = feeds_for(prepared, samples, batch, plan.dims, Path(folder), plan.where)
            party = Party(feeds, launch, found)
            taken, rounds = _take(prepared, callers, batch, plan, party, share)
        drawing = quantiles.Resamples(quantiles.weights(plan.restarts, rounds, plan.seed), plan.seed)
        for subject in prepared:
            if subject.name not in found.failures:
                base = baseline_of.get(subject.name)
                found.measurements.extend(
                    _numbers(subject, callers, batch, plan, taken, base if base in taken else None, drawing)
                )
    return Found([m for m in found.measurements if m.subject not in found.failures], found.failures)


def _shares(place: int, batches: int, restarts: int, progress: Advance) -> Advance:
    """Progress of one batch size among all, in restarts."""
    return lambda done, total: progress(restarts * place + done, restarts * batches)


def _take(
    subjects: Sequence[Subject],
    callers: Mapping[str, int],
    batch: int,
    plan: Plan,
    party: Party,
    progress: Advance,
) -> tuple[dict[str, _Taken], int]:
    """All restarts of one batch size; those that failed are not among the taken."""
    taken = {s.name: _Taken() for s in subjects}
    blocks: dict[str, int] = {}
    rounds = 0
    for restart in range(plan.restarts):
        order = shuffled(plan.seed, "offline", batch, restart)
        with ExitStack() as stack:
            processes: dict[str, Process] = {}
            for subject in party.alive(subjects, order):
                with party.found.guard(subject.name):
                    processes[subject.name] = party.open(subject, stack)
            pace = {n: _warm_up(n, p, callers[n], plan, party) for n, p in processes.items()}
            if not rounds:
                rounds, blocks = lay_out({n: ns for n, ns in pace.items() if ns}, callers, plan)
            for entry in taken.values():
                entry.per_call.append([])
            for _ in range(rounds):
                for subject in party.alive(subjects, order):
                    name = subject.name
                    with party.found.guard(name):
                        _block(taken[name], processes[name], callers[name], blocks[name])
            for name, process in processes.items():
                taken[name].precision = process.opened.precision
                taken[name].boundary = process.opened.boundary
        progress(restart + 1, plan.restarts)
    return {n: t for n, t in taken.items() if n not in party.found.failures}, max(rounds, 1)


def _warm_up(name: str, process: Process, callers: int, plan: Plan, party: Party) -> float:
    """Run a fresh process until it is warm; nanoseconds of wall clock per call, 0 when it failed."""
    with party.found.guard(name):
        first = process.load("offline", callers=callers, calls=callers, warmup=0)
        pace = max(1.0, first["wall"] / first["calls"])
        share = 0.2 * plan.seconds / plan.restarts * 1e9
        calls = min(max(2 * callers, int(share / pace)), MOST_CALLS)
        second = process.load("offline", callers=callers, calls=calls, warmup=0)
        return max(1.0, float(second["wall"]) / float(second["calls"]))
    return 0.0


def lay_out(pace: Mapping[str, float], callers: Mapping[str, int], plan: Plan) -> tuple[int, dict[str, int]]:
    """Rounds, and calls per block of each subject, that spend the budget; at least one call per caller."""
    budget = plan.seconds / plan.restarts * 1e9
    slowest = max((ns * callers[n] for n, ns in pace.items()), default=1.0)
    rounds = min(max(int(budget // slowest), LEAST_ROUNDS), ROUNDS)
    return rounds, {n: min(max(callers[n], int(budget / rounds / ns)), MOST_CALLS) for n, ns in pace.items()}


def _block(taken: _Taken, process: Process, callers: int, calls: int) -> None:
    warm = max(callers, math.ceil(BLOCK_WARM_UP * calls))
    found = process.load("offline", callers=callers, calls=calls, warmup=warm)
    taken.per_call[-1].append(max(1.0, found["wall"]) / found["calls"])
    taken.calls += found["calls"]


def _numbers(
    subject: Subject,
    callers: Mapping[str, int],
    batch: int,
    plan: Plan,
    taken: Mapping[str, _Taken],
    base: str | None,
    drawing: quantiles.Resamples,
) -> list[Measurement]:
    """The throughput in samples per second and its ratio to the baseline's."""
    name, own = subject.name, taken[subject.name]
    times = np.asarray(own.per_call)[:, :, None]
    rate = quantiles.rate(times, drawing)
    scale = batch * 1e9
    at = {"batch": batch, "streams": callers[name], "threads": threads(subject), **plan.dims}
    protocol = _protocol(plan, taken, times, own, subject)

    def made(relation: Any, found: Estimate, unit: str, n: int, against: str | None) -> Measurement:
        return Measurement(
            name, METRIC, relation, found.value, found.low, found.high, n, unit, "higher", against, dict(at),
            dict(protocol), plan.machine,
        )  # fmt: skip

    each = Estimate(rate.value * scale, rate.low * scale, rate.high * scale)
    found = [made("absolute", each, "1/s", round(own.calls), None)]
    if base and base != name:
        other = np.asarray(taken[base].per_call)[:, :, None]
        quotient = quantiles.rate_ratio(times, other, drawing)
        found.append(made("ratio", quotient, "x", round(min(own.calls, taken[base].calls)), base))
    return found


def _protocol(
    plan: Plan, taken: Mapping[str, _Taken], times: np.ndarray, own: _Taken, subject: Subject
) -> dict[str, Any]:
    spread = "" if plan.restarts > 1 else "; one restart: the spread between processes is not in it"
    return {
        "scenario": "offline",
        "defined": "batch x calls / wall clock; every caller is a thread that sends its next batch at once",
        "boundary": f"{own.boundary}; Python's own work between two calls of a caller is in it",
        "clock": "time.perf_counter_ns",
        "processes": "a fresh one per subject, restart and batch size; one runs at a time",
        "interleaved": True,
        "together_with": sorted(taken),
        "order_seed": plan.seed,
        "restarts": plan.restarts,
        "rounds": times.shape[1],
        "seconds": plan.seconds,
        "options": subject.options,
        "precision": own.precision,
        "restart_rate": [float(1e9 / np.mean(blocks)) for blocks in times[:, :, 0]],
        "interval": f"95 %, bootstrap over restarts and rounds, {quantiles.DRAWS} draws, log scale, widened by "
        f"Student's t for the number of restarts{spread}",
    }
