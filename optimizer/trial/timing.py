"""Latency of opened subjects in one session; whoever dies is named, and the others are measured without it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from optimizer import machine
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.measure import latency
from optimizer.measure.process import PATIENCE, Subject, Worker
from optimizer.protocols import Feeds
from optimizer.recipe import LatencySpec
from optimizer.values import Measurement

SHARE = 1.4
"""Wall time of a subject per second that it is timed: warm-up, starting processes, turns of the others apart."""
LEAST_SECONDS, LEAST_RESTARTS, DEFAULT_SECONDS, DEFAULT_RESTARTS = 0.01, 1, 10.0, 4


@dataclass(frozen=True)
class Timed:
    """What was measured, and who died on the way."""

    measurements: list[Measurement] = field(default_factory=list)
    dead: dict[str, OptimizerError] = field(default_factory=dict)


class DiedError(OptimizerError):
    """The process of one subject failed."""

    def __init__(self, name: str, error: OptimizerError) -> None:
        super().__init__(error.message, error.hint)
        self.name = name


class NamedWorker(Worker):
    """A worker whose failure says whose it was."""

    def __init__(self, subject: Subject, feeds: Path, threads: int, patience: float = PATIENCE) -> None:
        self._subject = subject.name
        with _named(subject.name):
            super().__init__(subject, feeds, threads, patience)

    def run(self, warmup: int, seconds: float, min_iterations: int) -> list[int]:
        with _named(self._subject):
            return super().run(warmup, seconds, min_iterations)

    def stop(self) -> int:
        with _named(self._subject):
            return super().stop()


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except OptimizerError as error:
        raise DiedError(name, error) from None


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
        seconds = max(LEAST_SECONDS, budget / (SHARE * subjects))
    fields = {
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
) -> Timed:
    """All subjects interleaved; after a death the rest once more without it, so that all ratios are of one session.

    `dims` are sizes that the feeds already have: they are written into the measurements. A subject whose baseline
    died is compared with the first that is left.
    """
    found, left, against = Timed(), list(subjects), dict(baseline_of)
    while left:
        names = [s.name for s in left]
        try:
            with console.task(f"latency of {len(left)} subject{'s' if len(left) > 1 else ''}") as advance:
                taken = latency.measure(
                    left, against, feeds, setting, seed, machine.here().digest, advance, launch=NamedWorker
                )
        except DiedError as error:
            if error.name not in names:
                raise
            console.warn(f"{error.name} is left out, the others are measured again without it: {error.message}")
            found.dead[error.name] = error
            left = [s for s in left if s.name != error.name]
            first = left[0].name if left else None
            against = {
                s.name: None if s.name == first and b == error.name else first if b == error.name else b
                for s, b in ((s, against.get(s.name)) for s in left)
            }
            continue
        found.measurements.extend(dataclasses.replace(m, at={**m.at, **dims}) for m in taken)
        break
    return found
