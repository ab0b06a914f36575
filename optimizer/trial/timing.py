"""Latency of opened subjects in one session; whoever dies is named, and the others are measured without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optimizer import gates, machine
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.measure import latency
from optimizer.measure.process import Subject, Worker
from optimizer.measure.rounds import Launch
from optimizer.protocols import Feeds
from optimizer.recipe import LatencySpec
from optimizer.values import Candidate, Measurement

LAUNCH: Launch = Worker

SHARE = 2.0
"""Wall seconds per second that a subject is timed: half of a budget goes into starting and warming processes."""
LEAST_SECONDS, LEAST_RESTARTS, DEFAULT_SECONDS, DEFAULT_RESTARTS = 0.01, 1, 10.0, 4


@dataclass(frozen=True)
class Timed:
    """What was measured, and who died on the way."""

    measurements: list[Measurement] = field(default_factory=list)
    dead: dict[str, OptimizerError] = field(default_factory=dict)


def spec(
    batches: Sequence[int],
    threads: int | None,
    seconds: float | None,
    restarts: int | None,
    budget: float | None,
    subjects: int,
) -> LatencySpec:
    """The latency setting behind the flags. Raises OptimizerError for runs that would measure nothing."""
    for option, value, least in (
        ("--seconds", seconds, LEAST_SECONDS), ("--restarts", restarts, LEAST_RESTARTS), ("--threads", threads, 1),
        ("--batch", min(batches), 1), ("--budget", budget, LEAST_SECONDS),
    ):  # fmt: skip
        if value is not None and not value >= least:
            raise OptimizerError(f"{option} {value:g}: measures nothing", f"the least allowed is {least:g}")
    if seconds is None and budget is not None:
        seconds = max(LEAST_SECONDS, budget / (SHARE * (subjects + 1)))  # one more: the baseline's twin
    fixed = {"most_restarts": restarts} if restarts is not None and budget is None else {}
    fields = {
        **fixed,
        "batch": list(batches),
        "seconds": seconds if seconds is not None else DEFAULT_SECONDS,
        "restarts": restarts if restarts is not None else DEFAULT_RESTARTS,
        "threads": threads or 1,
        "budget": budget,
    }
    return LatencySpec(**{k: v for k, v in fields.items() if k in LatencySpec.model_fields})


def measure(
    subjects: Sequence[Subject],
    baseline_of: Mapping[str, str | None],
    feeds: Feeds,
    setting: LatencySpec,
    dims: Mapping[str, int],
    seed: int,
    console: Console,
    asked: Sequence[gates.Gate] = (),
) -> Timed:
    """All subjects interleaved, until the gates `asked` are decided as far as the setting allows.

    `dims` are sizes that the feeds already have: they are written into the measurements. Who dies is named and left
    out; when a baseline died, the rest are measured once more against the first that is left, in one session.
    """
    dead: dict[str, OptimizerError] = {}
    left, against = list(subjects), dict(baseline_of)
    while left:
        taken = _session(left, against, feeds, setting, seed, console, asked, dead)
        orphans = {name for name, base in against.items() if base in dead and name not in dead}
        if not orphans:
            return Timed([dataclasses.replace(m, at={**m.at, **dims}) for m in taken], dead)
        left = [s for s in left if s.name not in dead]
        first = left[0].name
        console.warn(f"the baseline died: the others are measured again, against {first}")
        against = {s.name: None if s.name == first else first for s in left}
    return Timed([], dead)


def _session(
    subjects: Sequence[Subject],
    against: Mapping[str, str | None],
    feeds: Feeds,
    setting: LatencySpec,
    seed: int,
    console: Console,
    asked: Sequence[gates.Gate],
    dead: dict[str, OptimizerError],
) -> list[Measurement]:
    """One session; who dies in it is written into `dead`."""
    candidates = [Candidate(*s.name.rpartition("@")[::2], (), {}) for s in subjects]

    def enough(found: Sequence[Measurement]) -> bool:
        # Every subject without a baseline is one; gates are about the others.
        judged = [c for c in candidates if c.name not in dead and against.get(c.name)]
        return not judged or gates.decided(asked, found, judged, None)

    def failed(name: str, error: OptimizerError) -> None:
        subject = name.removesuffix(latency.TWIN)
        if subject not in dead:
            console.warn(f"{subject} is left out: {error.message}")
        dead.setdefault(subject, error)

    count = len(subjects)
    with console.task(f"latency of {count} subject{'s' if count > 1 else ''}") as advance:
        return latency.measure(
            subjects, against, feeds, setting, seed, machine.here().digest, advance,
            launch=LAUNCH, enough=enough, failed=failed,
        )  # fmt: skip
