"""Before and after measured anew, both in one interleaved session: the strongest comparison there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from optimizer.comparison.pairing import pair as paired
from optimizer.comparison.values import Pair, Pairing
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.subjects import Opened
from optimizer.trial import inputs, outputs, record, timing
from optimizer.trial.bench import Flags, verdict_gates
from optimizer.values import Candidate, Measurement, Run, on

Session = dict[tuple[str, str], list[Measurement]]
"""(pair's name, "before" or "after") -> its measurements."""


def plain_run(label: str, opened: Sequence[Opened]) -> Run:
    """The record of models that have none: their candidates and sizes."""
    own = [dataclasses.replace(o, subject=dataclasses.replace(o.subject, name=_known(o))) for o in opened]
    sizes = record.sizes(own, "")
    found = record.record(
        label, {}, own, "", sizes, (), precision={}, failed={}, data=(), warnings=(), seconds=0.0
    )  # fmt: skip
    return dataclasses.replace(found, recipe={})


def pairing_of(before: Run, after: Run, renamed: Mapping[str, str], loose: bool) -> Pairing:
    """As `comparison.pairing`; with `loose`, single models belong together whatever they are called."""
    if loose and len(before.candidates) == len(after.candidates) == 1 and not renamed:
        return Pairing((Pair(before.candidates[0], after.candidates[0]),))
    return paired(before, after, renamed)


def rerun(
    pairing: Pairing, before: Sequence[Opened], after: Sequence[Opened], flags: Flags, console: Console
) -> tuple[Session, list[str]]:
    """One session of all pairs, and what is odd about their outputs. Raises OptimizerError naming who cannot run."""
    sides = {"before": {_known(o): o for o in before}, "after": {_known(o): o for o in after}}
    found: Session = {}
    warnings: list[str] = []
    for one in pairing.pairs:
        if one.before.skipped or one.after.skipped:
            continue
        old = _called(sides["before"], one.before, "before")
        new = _called(sides["after"], one.after, "after")
        taken, odd = _pair([old, new], flags, console)
        warnings += odd
        for side, opened in (("before", old), ("after", new)):
            found[one.name, side] = [m for m in taken if m.subject == opened.subject.name]
    return found, warnings


def _known(o: Opened) -> str:
    """The name under which its run or bundle knows a subject; a model's own where it has none."""
    return on(o.candidate, o.subject.target)


def _called(known: dict[str, Opened], candidate: Candidate, side: str) -> Opened:
    """The subject behind a candidate, under a name that tells the sides apart."""
    if candidate.name not in known:
        raise OptimizerError(f"--rerun: the artifact of {candidate.name} ({side}) is not at hand", "name its bundle")
    opened = known[candidate.name]
    subject = dataclasses.replace(opened.subject, name=f"{side}-{candidate.variant}@{opened.subject.target}")
    return dataclasses.replace(opened, subject=subject)


def _pair(two: list[Opened], flags: Flags, console: Console) -> tuple[list[Measurement], list[str]]:
    """Both sides of one pair, interleaved; a failure of either ends the comparison."""
    [group] = inputs.groups(two, each=False)
    batches = inputs.batches_of(group, flags.wanted.batches)
    given = inputs.choose(group, dataclasses.replace(flags.wanted, batches=batches))
    console.info(f"{group[0].subject.name}: {given.note}")
    old, new = (o.subject.name for o in group)
    looked = outputs.look(group, old, given.feeds, batches[0], flags.threads or 1)
    failed = dict(looked.failed)
    if not failed:
        setting = timing.spec(batches, flags.threads, flags.seconds, flags.restarts, flags.budget, 2)
        subjects = [o.subject for o in group]
        seed, dims = flags.wanted.seed, flags.wanted.dims
        asked = verdict_gates(flags.min_speedup, batches)
        timed = timing.measure(subjects, {old: None, new: old}, given.feeds, setting, dims, seed, console, asked)
        failed |= timed.dead
    if failed:
        first = next(iter(failed.values()))
        raise OptimizerError(f"--rerun: {first.message}", first.hint)
    return timed.measurements, looked.warnings
