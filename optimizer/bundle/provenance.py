"""From the run's record to the manifest's: one candidate's part of it, without local paths."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path, PurePath
from typing import Any

from optimizer.bundle.manifest import Recommended
from optimizer.errors import OptimizerError
from optimizer.values import Artifact, Candidate, Measurement, Run, Verdict

# What looks like a local path of two parts or more. What stands behind '//' is an address.
PART = r"[^\s/\\'\",;:()<>]+"
LOCAL = re.compile(rf"(?<![\w.:/~-])(~|[A-Za-z]:)?[/\\]({PART})[/\\](?:{PART}[/\\])*({PART})")


def portable(value: Any) -> Any:
    """A JSON value that says the same on every machine: a local path is cut down to its last name.

    NaN and infinity, which JSON lacks, become null.
    """
    if isinstance(value, dict):
        return {str(k): portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [portable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, PurePath):
        return value.name
    return _without_paths(value) if isinstance(value, str) else value


def _without_paths(text: str) -> str:
    whole = re.fullmatch(r"(~|[A-Za-z]:)?[/\\]([^/\\\n]+)(?:[/\\][^\n]*)?", text)
    if whole and _is_local(whole[1], whole[2]):
        return re.split(r"[/\\]", text.rstrip("/\\"))[-1]  # nothing but a path, perhaps with spaces in it
    return LOCAL.sub(lambda m: m[0] if not _is_local(m[1], m[2]) else m[3], text)


def _is_local(anchor: str | None, first: str) -> bool:
    """Whether a path starts at this machine's root. Names of graph nodes, such as /conv1/Conv, do not."""
    return anchor is not None or Path("/", first).is_dir()


def candidate(run: Run, name: str, artifact: Artifact) -> Candidate:
    """The candidate of this name; the artifact must be the one that was measured."""
    names = [c.name for c in run.candidates]
    if name not in names:
        raise OptimizerError(f"the run has no candidate '{name}'; available: {', '.join(names)}", "see its run.json")
    found = run.candidates[names.index(name)]
    if found.skipped:
        raise OptimizerError(f"{name} was not built: {found.skipped}", "bundle another candidate")
    digests = {step.key: step.digest for step in run.steps}
    if found.artifact != artifact.key or digests.get(artifact.key, artifact.digest) != artifact.digest:
        raise OptimizerError(f"{name}: this artifact is not the one that was measured", "build again: optc build")
    return found


def verdicts(run: Run, name: str, allow_failed: bool) -> tuple[tuple[Verdict, ...], tuple[str, ...]]:
    """The candidate's verdicts, and the gates among them that did not pass and were accepted nevertheless."""
    own = tuple(v for v in run.verdicts if v.subject == name)
    waits = any(c.name == name and c.pending for c in run.candidates)
    bad = [v for v in own if v.outcome != "pass" and not (waits and v.outcome == "inconclusive")]
    if bad and not allow_failed:
        reasons = "; ".join(f"{v.gate}: {v.outcome}: {v.reason}" for v in bad)
        raise OptimizerError(
            f"{name} is not bundled: {reasons}", "change the recipe until its gates pass, or give --allow-failed"
        )
    return own, tuple(v.gate for v in bad)


def measurements(run: Run, name: str) -> tuple[Measurement, ...]:
    """The candidate's numbers."""
    own = (m for m in run.measurements if m.subject == name and math.isfinite(m.value))
    return tuple(dataclasses.replace(m, at=portable(m.at), protocol=portable(m.protocol)) for m in own)


def recommended(run: Run, name: str) -> tuple[Recommended, ...]:
    """The settings that did best for the candidate in a sweep, one per objective."""
    own = [s for s in run.settings if s.subject == name]
    return tuple(
        Recommended(
            objective=s.objective,
            options=portable(s.options),
            batch=s.batch,
            value=s.value,
            low=s.low,
            high=s.high,
            unit=s.unit,
        )
        for s in own
    )


def steps(run: Run, chosen: Candidate) -> tuple[dict[str, Any], ...]:
    """What made the artifact, source first. Left out: how long it took, which differs between equal builds."""
    by_key = {step.key: step for step in run.steps}
    found = [dataclasses.asdict(by_key[key]) for key in chosen.steps if key in by_key]
    return tuple(portable({k: v for k, v in s.items() if k not in ("seconds", "cached")}) for s in found)
