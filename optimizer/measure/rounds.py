"""Opened subjects take turns: a restart is fresh processes, warmed up, then rounds of one block of calls each.

All subjects are opened in fresh processes, one after the other. In each round every subject runs one block of calls,
in an order drawn anew, while the others sleep. So a slow spell of the machine meets all of them, and a ratio is taken
between blocks of the same round. Blocks are short, since the machine changes from one moment to the next; how many
calls a block has is decided once per batch size, for a time limit per block would count fast spells more.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.measure import conditions, quantiles
from optimizer.measure.process import Opened, Subject
from optimizer.measure.timings import Taken

MOST_ROUNDS = 40
MOST_CALLS = 5000
BLOCK = 10e6
"""Nanoseconds that a block should last: long against the switch between processes, short against the weather."""
WARM_UP = 0.2
"""Share of a restart's time budget that a subject runs, on top, before anything counts."""
BLOCK_WARM_UP = 0.1
"""Share of a block's calls that are made, on top, before it counts: others have had the caches meanwhile."""

T = TypeVar("T")
Failed = Callable[[str, OptimizerError], None]
"""Told the subject that cannot be measured, and why."""


class Process(Protocol):
    """An opened subject: `Worker`, or a stand-in with a clock of its own."""

    opened: Opened

    def run(self, warmup: int, seconds: float, min_iterations: int) -> list[int]: ...
    def stop(self) -> int: ...
    def close(self) -> None: ...


Launch = Callable[[Subject, Path, int, Sequence[int]], Process]
"""(subject, file of inputs, threads, cores it may use) -> the opened subject."""


@dataclass(frozen=True)
class Seat:
    """A subject with the inputs and the number of threads that it is run with."""

    subject: Subject
    feeds: Path
    threads: int


@dataclass(frozen=True)
class Blocks:
    """How the calls of one batch size are laid out."""

    rounds: int
    calls: Mapping[str, int]  # subject -> calls per block


@dataclass
class Table:
    """Subjects that are measured together at one batch size, restart by restart.

    A subject that fails is told to `failed`, loses what it had, and the others go on; without `failed` the error goes
    up. No process outlives a restart.
    """

    seats: dict[str, Seat]
    seconds: float  # budget of timed calls per subject and restart
    least: int  # restarts that there will be at least
    seed: str
    launch: Launch
    cores: Sequence[int] = ()  # that processes are kept on; none: the scheduler chooses
    failed: Failed | None = None
    taken: dict[str, Taken] = field(default_factory=dict)
    blocks: Blocks = Blocks(1, {})
    conditions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def restarts(self) -> int:
        """How many restarts are done."""
        return len(self.conditions)

    def restart(self, advance: Callable[[float], None]) -> None:
        """One more restart of every subject that is still there; `advance` is told shares of one subject's restart."""
        order = random.Random(f"{self.seed}/{self.restarts}")  # noqa: S311  # an order, not a secret
        before = conditions.snapshot()
        with ExitStack() as stack:
            processes = self._open(order, stack, advance)
            self._warm_up(processes, advance)
            self._run_rounds(processes, order, advance)
            pids = [pid for p in processes.values() if (pid := getattr(p, "pid", None))]
            self.conditions.append(conditions.between(before, conditions.snapshot(), conditions.spent_by(pids)))
            for name in self._present(processes):
                self._attempt(name, partial(self._stop, processes[name], self.taken[name]))

    def _open(self, order: random.Random, stack: ExitStack, advance: Callable[[float], None]) -> dict[str, Process]:
        processes: dict[str, Process] = {}
        for name in order.sample(sorted(self.seats), len(self.seats)):
            seat = self.seats[name]
            process = self._attempt(
                name, partial(self.launch, seat.subject, seat.feeds, seat.threads, self._kept_on(seat.threads))
            )
            if process is not None:
                processes[name] = stack.enter_context(closing(process))
                self.taken.setdefault(name, Taken()).opened.append(process.opened)
            advance(0.1)
        return processes

    def _kept_on(self, threads: int) -> list[int]:
        """As many cores as threads, the same for all subjects of a restart and others in the next one.

        A process that wanders between cores meets other neighbours than the one it is compared with: kept in place,
        A/A ratios of ResNet-sized models spread half as much beside a noisy neighbour.
        """
        if threads >= len(self.cores):
            return []
        first = self.restarts * threads
        return [self.cores[(first + k) % len(self.cores)] for k in range(threads)]

    def _warm_up(self, processes: Mapping[str, Process], advance: Callable[[float], None]) -> None:
        """Run each process until it is warm; the first time, lay out the blocks by what a call then takes."""
        pace: dict[str, int] = {}
        for name in self._present(processes):
            times = self._attempt(name, partial(self._warm, processes[name], self.taken[name]))
            if times is not None:
                pace[name] = max(1, int(np.median(times)))
            advance(0.15)
        if not self.blocks.calls:
            self.blocks = lay_out(pace, self.seconds, self.least)

    @staticmethod
    def _stop(process: Process, taken: Taken) -> None:
        taken.peaks.append(process.stop())

    def _warm(self, process: Process, taken: Taken) -> list[int]:
        taken.first.append(process.run(0, 0.0, 1)[0])
        return process.run(0, WARM_UP * self.seconds, 3)

    def _run_rounds(
        self, processes: Mapping[str, Process], order: random.Random, advance: Callable[[float], None]
    ) -> None:
        """Every subject runs one block per round, in an order of its own each round."""
        for name in self._present(processes):
            self.taken[name].blocks.append([])
        for _ in range(self.blocks.rounds):
            present = self._present(processes)
            for name in order.sample(present, len(present)):
                calls = self.blocks.calls[name]
                times = self._attempt(name, partial(processes[name].run, warm_up_calls(calls), 0.0, calls))
                if times is not None:
                    self.taken[name].blocks[-1].append(np.asarray(times))
                advance(0.75 / self.blocks.rounds)

    def _present(self, processes: Mapping[str, Process]) -> list[str]:
        return sorted(name for name in processes if name in self.seats)

    def _attempt(self, name: str, action: Callable[[], T]) -> T | None:
        """What the action gives, or None for a subject that failed and has left the table."""
        try:
            return action()
        except OptimizerError as error:
            if self.failed is None:
                raise
            self.seats.pop(name, None)
            self.taken.pop(name, None)
            self.failed(name, error)
            return None


def lay_out(pace: Mapping[str, int], seconds: float, restarts: int) -> Blocks:
    """Rounds and calls per block that spend `seconds` per subject in one restart, from nanoseconds per call.

    At least three rounds, and so many that `restarts` together support a median. A slow subject then takes longer
    than its budget; the others keep to theirs.
    """
    budget = seconds * 1e9
    least = max(3, math.ceil(quantiles.support(50) / restarts))
    most = max(MOST_ROUNDS, least)
    rounds = min(max(int(budget // max(BLOCK, *pace.values())) if pace else 1, least), most)
    return Blocks(rounds, {name: min(max(1, int(budget / rounds / ns)), MOST_CALLS) for name, ns in pace.items()})


def warm_up_calls(calls: int) -> int:
    """Calls at the start of a block that do not count."""
    return math.ceil(BLOCK_WARM_UP * calls)
