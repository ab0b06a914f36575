"""Latency, throughput, load time and peak memory of artifacts, each in a process of its own.

Restarts go on until the numbers can answer what was asked (`enough`, `precision`), or until the budget is spent; the
intervals know how often was looked (`looks.py`). Each baseline is measured beside a twin of itself: how far those two
lie apart is the noise of this very session, and a speed-up within it is none.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.console import Advance
from optimizer.measure import conditions, looks, quantiles, rounds
from optimizer.measure.feeds import shape_feeds
from optimizer.measure.process import Subject, Worker, save_feeds
from optimizer.measure.rounds import Failed, Launch, Seat, Table
from optimizer.measure.timings import View, noise_of, of_subject
from optimizer.protocols import Feeds
from optimizer.recipe import LatencySpec
from optimizer.values import Measurement

__all__ = ["Subject", "measure", "shape_feeds"]

TWIN = " (again)"
Enough = Callable[[Sequence[Measurement]], bool]
"""Whether measurements so far answer what is asked of them."""


@dataclass(frozen=True)
class _Task:
    """What does not change from one batch size to the next."""

    subjects: Sequence[Subject]  # twins included
    baseline_of: Mapping[str, str | None]
    spec: LatencySpec
    seed: int
    machine: str
    launch: Launch
    enough: Enough
    failed: Failed | None


def measure(
    subjects: Sequence[Subject],
    baseline_of: Mapping[str, str | None],
    samples: Feeds,
    spec: LatencySpec,
    seed: int,
    machine_digest: str,
    progress: Advance = lambda done, total: None,
    launch: Launch = Worker,
    enough: Enough = lambda found: True,
    failed: Failed | None = None,
) -> list[Measurement]:
    """All measurements of all subjects at each batch size of `spec`, ratios against `baseline_of[name]` included.

    `samples` are real inputs, first dimension samples. After `spec.restarts` restarts, and again after more, it stops
    when `enough` says so and every speed-up is known to `spec.precision`; it ends in any case after
    `spec.most_restarts` or `spec.budget`. A subject whose process fails or hangs is told to `failed` and left out,
    the others go on; without `failed` the OptimizerError that names it is raised. Raises OptimizerError for a
    signature that does not admit the batch size. No process outlives the call.
    """
    names = [subject.name for subject in subjects]
    baselines = dict.fromkeys(b for b in baseline_of.values() if b)
    if len(set(names)) != len(names) or not set(baselines) <= set(names):
        raise AssertionError("BUG: subjects need names of their own, and a baseline must be among them")
    batches = list(dict.fromkeys(spec.batch))
    feeds = {(s.name, b): shape_feeds(s.artifact.signature, samples, b, spec.dims) for s in subjects for b in batches}
    twins = [dataclasses.replace(s, name=s.name + TWIN) for s in subjects if s.name in baselines]
    feeds |= {(s.name, b): feeds[s.name.removesuffix(TWIN), b] for s in twins for b in batches}
    task = _Task([*subjects, *twins], baseline_of, spec, seed, machine_digest, launch, enough, failed)
    meter = _Meter(len(batches), spec.most_restarts * len(task.subjects), progress)
    found: list[Measurement] = []
    for batch in batches:
        found += _at_batch(task, batch, {n: f for (n, b), f in feeds.items() if b == batch}, meter)
        meter.next_batch()
    return found


def _at_batch(task: _Task, batch: int, feeds: Mapping[str, Feeds], meter: _Meter) -> list[Measurement]:
    """Restarts at one batch size, until they are enough."""
    spec, start = task.spec, time.monotonic()
    goals = looks.goals(spec.restarts, max(spec.restarts, spec.most_restarts))
    with tempfile.TemporaryDirectory(prefix="optc-feeds-") as folder:
        seats = {}
        for place, subject in enumerate(task.subjects):
            path = Path(folder) / f"{place}.npz"
            save_feeds(feeds[subject.name], path)
            seats[subject.name] = Seat(subject, path, _threads(subject, spec))
        seconds = spec.seconds / max(spec.restarts, spec.most_restarts)
        table = Table(seats, seconds, spec.restarts, f"{task.seed}/{batch}", task.launch, _cores(spec), task.failed)
        for look, goal in enumerate(goals):
            spent = False
            while table.restarts < goal and table.seats and not spent:
                table.restart(meter.advance)
                spent = _over_budget(spec, table.restarts, time.monotonic() - start)
            last = spent or goal == goals[-1] or not table.seats
            level = looks.level(goals, look, last)
            found = _numbers(task, table, batch, feeds, {"level": level, "looks": look + 1})
            stopped = _stopped(task, found, spent, last)
            if stopped:
                return [dataclasses.replace(m, protocol=m.protocol | {"stopped": stopped}) for m in found]
    raise AssertionError("BUG: the last look stops")


def _cores(spec: LatencySpec) -> Sequence[int]:
    """The cores that processes may be kept on; none where the recipe or the system does not want it."""
    return sorted(os.sched_getaffinity(0)) if spec.pin and hasattr(os, "sched_getaffinity") else ()


def _over_budget(spec: LatencySpec, restarts: int, seconds: float) -> bool:
    """Whether another restart would not fit; two are made in any case, since one says nothing of the next."""
    return spec.budget is not None and restarts >= 2 and seconds * (restarts + 1) / restarts > spec.budget


def _stopped(task: _Task, found: Sequence[Measurement], spent: bool, last: bool) -> str | None:
    """Why no further restart is made, or None."""
    if task.enough(found) and _precise(found, task.spec.precision):
        return "decided"
    return "budget" if spent else "restarts" if last else None


def _precise(found: Sequence[Measurement], precision: float | None) -> bool:
    """Whether the interval of every speed-up of the median reaches no further than `precision` to either side."""
    ratios = [m for m in found if (m.metric, m.relation) == ("latency.p50", "speedup")]
    return precision is None or all(
        m.low is not None and m.high is not None and max(m.high / m.value, m.value / m.low) <= 1 + precision
        for m in ratios
    )


def _numbers(
    task: _Task, table: Table, batch: int, feeds: Mapping[str, Feeds], look: Mapping[str, Any]
) -> list[Measurement]:
    """The measurements that the restarts so far allow."""
    if not table.taken:
        return []
    protocol = _protocol(task, table, look)
    weight = quantiles.weights(table.restarts, table.blocks.rounds, task.seed)
    drawing = quantiles.Resamples(weight, task.seed, look["level"])
    views: dict[str, View] = {}
    for subject in (s for s in task.subjects if s.name in table.taken):
        opened = table.taken[subject.name].opened[0]
        facts = {
            "shapes": {key: list(array.shape) for key, array in feeds[subject.name].items()},
            "precision": opened.precision,
        }
        timed = {"boundary": opened.boundary, "clock": opened.clock}
        at = {"batch": batch, "threads": _threads(subject, task.spec), **task.spec.dims}
        views[subject.name] = View(subject.name, at, timed | protocol | facts, task.machine)
    noise = {
        name: noise_of(view, table.taken[name], table.taken[name + TWIN], drawing)
        for name, view in views.items()
        if name + TWIN in views
    }
    found = list(noise.values())
    for name, view in views.items():
        if not name.endswith(TWIN):
            against = task.baseline_of.get(name)
            base = (against, table.taken[against]) if against in views and against != name else None
            near = noise.get(name) or noise.get(against or "")
            found += of_subject(view, table.taken[name], base, near, drawing)
    return found


def _protocol(task: _Task, table: Table, look: Mapping[str, Any]) -> dict[str, Any]:
    spec = task.spec
    spread = "" if table.restarts > 1 else "; one restart: the spread between processes is not in it"
    several = f" and for {look['looks']} looks at the numbers (level {look['level']:.4f})" if look["looks"] > 1 else ""
    return {
        "processes": "a fresh one per subject, restart and batch size; one runs at a time",
        "cores": "kept on as many cores as threads, the same for all in a restart" if table.cores else "any",
        "interleaved": True,
        "together_with": sorted(table.blocks.calls),
        "order_seed": task.seed,
        "restarts": table.restarts,
        "rounds": table.blocks.rounds,
        "seconds": spec.seconds,
        "looks": look["looks"],
        "conditions": conditions.joined(table.conditions),
        "warm_up": {"seconds_per_restart": rounds.WARM_UP * table.seconds, "share_of_block": rounds.BLOCK_WARM_UP},
        "interval": f"95 %, bootstrap over restarts and rounds, {quantiles.DRAWS} draws, log scale, widened by "
        f"Student's t for the number of restarts{several}{spread}",
    }


def _threads(subject: Subject, spec: LatencySpec) -> int:
    return int(subject.options.get("threads") or spec.threads)


class _Meter:
    """Progress in hundredths of one subject's restart; a batch size that needs fewer restarts jumps to its end."""

    def __init__(self, batches: int, each: int, progress: Advance) -> None:
        self._each, self._total, self._progress = 100 * each, 100 * each * batches, progress
        self._batch, self._done = 0, 0.0

    def advance(self, share: float) -> None:
        self._done += share
        self._progress(
            min(self._batch * self._each + min(round(100 * self._done), self._each), self._total), self._total
        )

    def next_batch(self) -> None:
        self._batch, self._done = self._batch + 1, 0.0
        self._progress(self._batch * self._each, self._total)
