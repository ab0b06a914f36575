"""Latency side by side: subjects in, a Run out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizer import gates
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.subjects import Opened, Refused
from optimizer.trial import entrants, inputs, outputs, record, timing
from optimizer.trial.inputs import Wanted
from optimizer.values import DataRecord, Measurement, Run, Verdict


@dataclass(frozen=True)
class Flags:
    """What `optc bench` was told."""

    wanted: Wanted
    threads: int | None = None
    seconds: float | None = None
    restarts: int | None = None
    budget: float | None = None
    baseline: str | None = None
    min_speedup: str | None = None
    each: bool = False


@dataclass
class Ledger:
    """What the groups of a trial have given so far."""

    measurements: list[Measurement] = field(default_factory=list)
    precision: dict[str, str] = field(default_factory=dict)
    failed: dict[str, OptimizerError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    data: list[DataRecord] = field(default_factory=list)

    def add(self, looked: outputs.Looked, timed: timing.Timed) -> None:
        """Take over what one group gave."""
        self.measurements += timed.measurements
        self.precision |= looked.precision
        self.failed |= looked.failed | timed.dead
        self.warnings += looked.warnings


@dataclass(frozen=True)
class Benched:
    """The record, and why some subjects are not in it."""

    run: Run
    failed: dict[str, OptimizerError]


def bench(subjects: Sequence[Opened | Refused], flags: Flags, console: Console) -> Benched:
    """Measure all subjects; those of one signature together, in one interleaved session.

    One that was refused or fails is named, the others go on. Raises OptimizerError for what can be seen before, and
    when not one subject could be measured.
    """
    start = time.perf_counter()
    timing.spec([1, *flags.wanted.batches], flags.threads, flags.seconds, flags.restarts, flags.budget, 1)
    baseline = entrants.named(flags.baseline, subjects)
    verdict_gates(flags.min_speedup, flags.wanted.batches or [1])
    opened, refused = entrants.split(subjects, console)
    ledger = Ledger(failed=refused)
    for group in inputs.groups(opened, flags.each):
        _group(group, baseline, flags, console, ledger, alone=len(subjects) == 1)
    alive = [o for o in opened if o.subject.name not in ledger.failed]
    if not alive:
        first = next(iter(ledger.failed.values()))
        raise OptimizerError(f"nothing could be measured: {first.message}", first.hint)
    if baseline in ledger.failed:
        baseline = alive[0].subject.name
        ledger.warnings.append(f"the baseline failed; the others are compared with {baseline}")
    ledger.measurements += record.sizes(alive, baseline)
    run = _recorded(subjects, baseline, flags, ledger, time.perf_counter() - start)
    return Benched(run, ledger.failed)


def verdict_gates(min_speedup: str | None, batches: Sequence[int]) -> list[gates.Gate]:
    """The gates that --min-speedup stands for: one per batch size."""
    return [gates.parse(f"latency.p50 speedup >= {min_speedup} at batch {b}") for b in batches if min_speedup]


def _group(group: list[Opened], baseline: str, flags: Flags, console: Console, ledger: Ledger, alone: bool) -> None:
    """Look at the outputs of subjects with one signature, then time them."""
    batches = inputs.batches_of(group, flags.wanted.batches)
    given = inputs.choose(group, dataclasses.replace(flags.wanted, batches=batches))
    console.info(given.note)
    ledger.warnings += [f"{o.subject.name}: {note}" for o in group for note in o.notes]
    ledger.warnings += [given.note] if given.synthetic and given.note not in ledger.warnings else []
    ledger.data += [given.record] if given.record else []
    with console.task(f"outputs of {len(group)} subject{'s' if len(group) > 1 else ''}"):
        looked = outputs.look(group, baseline, given.feeds, batches[0], flags.threads or 1)
    for name, error in looked.failed.items() if not alone else ():
        console.warn(f"{name} is left out: {error.message}")
    names = [o.subject.name for o in looked.alive]
    against = baseline if baseline in names else next(iter(names), None)
    setting = timing.spec(batches, flags.threads, flags.seconds, flags.restarts, flags.budget, max(len(names), 1))
    pairs = {name: against if name != against else None for name in names}
    subjects = [o.subject for o in looked.alive]
    timed = timing.measure(subjects, pairs, given.feeds, setting, flags.wanted.dims, flags.wanted.seed, console,
                           verdict_gates(flags.min_speedup, batches))  # fmt: skip
    threads = {n: o.subject.options.get("threads") for n, o in zip(names, looked.alive, strict=True)}
    if len(set(threads.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in threads.items())
        looked.warnings.append(f"other numbers of threads: {told}; --threads sets one for all")
    ledger.add(looked, timed)


def _recorded(subjects: Sequence[Opened | Refused], baseline: str, flags: Flags, ledger: Ledger, seconds: float) -> Run:
    failed = {name: f"failed: {error.message.splitlines()[0]}" for name, error in ledger.failed.items()}
    asked: dict[str, Any] = {
        "batch": list(flags.wanted.batches), "dims": dict(flags.wanted.dims), "threads": flags.threads,
        "seconds": flags.seconds, "restarts": flags.restarts, "budget": flags.budget, "seed": flags.wanted.seed,
        "min_speedup": flags.min_speedup, "data": flags.wanted.data,
    }  # fmt: skip
    asked = {k: v for k, v in asked.items() if v not in (None, [], {})}
    timed = {int(m.at["batch"]) for m in ledger.measurements if m.metric == "latency.p50"}
    bare = record.record(
        "bench", asked, subjects, baseline, ledger.measurements, (), precision=ledger.precision, failed=failed,
        data=ledger.data, warnings=[*ledger.warnings, *(e.message for e in ledger.failed.values())], seconds=seconds,
    )  # fmt: skip
    verdicts: list[Verdict] = gates.judge(
        verdict_gates(flags.min_speedup, sorted(timed)), bare.measurements, bare.candidates, baseline
    )
    return dataclasses.replace(bare, verdicts=tuple(verdicts), outcome=gates.outcome(verdicts))
