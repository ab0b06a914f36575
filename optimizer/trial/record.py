"""What a trial did, as a Run: the same record that a build writes, so that every view of one shows the other."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import optimizer
from optimizer import gates, machine, registry
from optimizer.measure import memory
from optimizer.subjects import Opened, Refused
from optimizer.values import RUN_SCHEMA, Candidate, DataRecord, Measurement, Run, Verdict


def record(
    name: str,
    asked: Mapping[str, Any],
    subjects: Sequence[Opened | Refused],
    baseline: str,
    measurements: Sequence[Measurement],
    verdicts: Sequence[Verdict],
    *,
    precision: Mapping[str, str],
    failed: Mapping[str, str],
    data: Sequence[DataRecord],
    warnings: Sequence[str],
    seconds: float,
) -> Run:
    """The Run of a trial: `asked` stands where a build has its recipe, every one of `subjects` is a candidate."""
    candidates = [_candidate(o, precision.get(o.name), failed.get(o.name)) for o in subjects]
    return Run(
        schema=RUN_SCHEMA,
        version=optimizer.__version__,
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe={name: {**asked, "artifacts": {o.name: _portable(o.origin) for o in subjects}}},
        baseline=baseline,
        machine=machine.here(),
        tools=tools([o.target for o in subjects]),
        data=tuple(data),
        steps=(),
        candidates=tuple(candidates),
        measurements=tuple(measurements),
        verdicts=tuple(verdicts),
        warnings=tuple(warnings),
        seconds=seconds,
        outcome=gates.outcome(verdicts),
    )


def sizes(opened: Sequence[Opened], baseline: str) -> list[Measurement]:
    """Every artifact's size, and its ratio to the baseline's."""
    known = {o.subject.name: o.subject.artifact.size for o in opened}
    base = (baseline, known[baseline]) if baseline in known else None
    digest = machine.here().digest
    return [m for name, size in known.items() for m in memory.size_measurements(name, size, base, digest)]


def tools(targets: Sequence[str]) -> dict[str, str]:
    """Versions of everything that ran."""
    names = {"optc", "numpy", *(t for target in targets for t in registry.load("targets", target).TOOLS)}
    return {name: machine.version_of(name) or "absent" for name in sorted(names)}


def _candidate(o: Opened | Refused, precision: str | None, failed: str | None) -> Candidate:
    if isinstance(o, Refused):
        return Candidate(o.variant, o.target, (), {}, skipped=failed)
    artifact = o.subject.artifact
    return Candidate(
        o.variant, o.subject.target, (), dict(o.subject.options), artifact.key, None, artifact.size, precision, failed
    )


def _portable(origin: str) -> str:
    """How a subject was named, without the folders of this machine."""
    return PurePath(origin).name or origin
