"""A search whose trials are a table of numbers and whose clock only moves when a trial does something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optimizer import gates
from optimizer.errors import OptimizerError
from optimizer.search.engine import Engine, Told
from optimizer.search.journal import Journal
from optimizer.search.points import Point
from optimizer.search.runner import Built, Restored, Timed
from optimizer.search.standing import Stand, stand
from optimizer.values import Candidate, Measurement

GATE = gates.parse("top1 drop <= 1pp")
YARDSTICK = "fp32@a"


@dataclass(frozen=True)
class Truth:
    """What a trial would show: speed-up, drop in points, noise over signal of its outputs."""

    speed: float
    drop: float
    error: float = 1e-4
    digest: str | None = None
    spread: float = 0.02  # half the interval of the speed-up
    half: float = 0.5  # half the interval of the drop
    fails: str | None = None  # at what: build, time, judge


def objective(name: str, truth: Truth) -> Measurement:
    low, high = truth.speed - truth.spread, truth.speed + truth.spread
    return Measurement(name, "latency.p50", "speedup", truth.speed, low, high, 9, "x", "higher", against=YARDSTICK)


def drop(name: str, truth: Truth, n: int = 1000) -> Measurement:
    low, high = truth.drop - truth.half, truth.drop + truth.half
    return Measurement(name, "top1", "drop", truth.drop, low, high, n, "pp", "lower", against="fp32")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Table:
    """The runner: numbers of a table. It says what it was asked, in order, and can be killed at any of it."""

    truths: Mapping[str, Truth]
    clock: Clock
    restore: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    kill_at: str | None = None

    def key(self, point: Point) -> str:
        return point.identity

    def build(self, point: Point) -> Built:
        truth = self._call("build", point.name, 1.0)
        return Built(truth.digest or point.name, (), truth.error, "int8")

    def time(self, points: Sequence[Point], thorough: bool) -> dict[str, Timed | str]:
        what = "final" if thorough else "time"
        found: dict[str, Timed | str] = {}
        for point in points:
            truth = self._call(what, point.name, 2.0, raises=False)
            found[point.name] = "its process died" if truth.fails == "time" else Timed(objective(point.name, truth), ())
        return found

    def judge(self, point: Point) -> tuple[Measurement, ...]:
        return (drop(point.name, self._call("judge", point.name, 10.0)),)

    def stand(self, point: Point, found: Sequence[Measurement]) -> Stand:
        candidate = Candidate("best", point.target, (), {})
        return stand([GATE], [replace(m, subject=candidate.name) for m in found], candidate, "fp32", 1000)

    def restored(self, point: Point, seconds: float) -> list[Restored]:
        self.calls.append(f"restored {point.name}")
        return [Restored(other, f"mended from {point.name}") for other in self.restore.get(point.name, ())]

    def _call(self, what: str, name: str, seconds: float, raises: bool = True) -> Truth:
        if self.kill_at == f"{what} {name}":
            raise KeyboardInterrupt
        self.calls.append(f"{what} {name}")
        self.clock.now += seconds
        truth = self.truths[name]
        if raises and truth.fails == what:
            raise OptimizerError(f"{name} cannot be done: {what}")
        return truth

    def asked(self, what: str) -> list[str]:
        return [call.partition(" ")[2] for call in self.calls if call.startswith(f"{what} ")]


@dataclass(frozen=True)
class Grid:
    """The space: given presets, and given changes around some of them."""

    first: Sequence[Point]
    around: Mapping[str, Sequence[Point]] = field(default_factory=dict)

    def presets(self) -> list[Point]:
        return list(self.first)

    def neighbours(self, point: Point) -> list[Point]:
        return list(self.around.get(point.name, ()))


def point(step: str, target: str = "a", **options: object) -> Point:
    return Point(target, ((step, options),))


def engine(table: Table, grid: Grid, folder: Path, budget: float = 10_000.0, told: Told | None = None) -> Engine:
    warnings: list[str] = []
    journal = Journal(folder / "journal.jsonl", "scope", warnings.append)
    found = Engine(grid, table, journal, budget, GATE, told or Told(), table.clock)
    found.warnings = warnings  # type: ignore[attr-defined]  # for the test that reads them
    return found
