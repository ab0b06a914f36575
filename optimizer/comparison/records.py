"""Where the two halves of a comparison come from: run records, report folders, bundles, stored baselines."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from optimizer import bundle, schema
from optimizer.bundle.manifest import Manifest
from optimizer.comparison import baselines
from optimizer.errors import OptimizerError, unknown
from optimizer.inspection import ARCHIVES, read_run
from optimizer.values import RUN_SCHEMA, Candidate, Machine, Run, StepRecord


@dataclass(frozen=True)
class Record:
    """One half: how it was named, and the run that it holds."""

    label: str
    run: Run
    kind: Literal["run", "bundle", "baseline"]


def read(text: str, home: Path) -> Record:
    """The record that `text` names; `#variant@target` behind it keeps one candidate.

    run.json, x.tar.gz and folders are told by their spelling; a plain word that is no folder here is a baseline stored
    below `home`. A bundle is checked byte by byte first. Raises OptimizerError when there is no such thing.
    """
    place, _, pick = text.partition("#")
    found = _read(place, home)
    return dataclasses.replace(found, label=text, run=_picked(found.run, pick)) if pick else found


def is_record(text: str, home: Path) -> bool:
    """Whether this names a record and no model: by its spelling, what a folder holds, and the stored baselines."""
    place = text.partition("#")[0]
    path = Path(place).expanduser()
    if path.is_dir():
        return any((path / name).is_file() for name in ("run.json", "manifest.json"))
    stored = baselines.is_name(place) and baselines.path_of(place, home).is_file()
    return place.endswith((".json", *ARCHIVES)) or stored


def _read(place: str, home: Path) -> Record:
    path = Path(place).expanduser()
    if place.endswith(".json"):
        return Record(place, read_run(path)[0], "run")
    if place.endswith(ARCHIVES):
        return Record(place, _of_bundle(path), "bundle")
    if path.is_dir():
        if baselines.is_name(place) and baselines.path_of(place, home).is_file():
            raise OptimizerError(
                f"'{place}' is a folder here and a stored baseline",
                f"write ./{place} for the folder, or --baseline {place}",
            )
        if (path / "manifest.json").is_file():
            return Record(place, _of_bundle(path), "bundle")
        return Record(place, read_run(path)[0], "run")
    if baselines.is_name(place):
        return Record(place, baselines.load(place, home), "baseline")
    raise OptimizerError(
        f"'{place}' is no run record, folder or bundle", "give run.json, a report folder, a bundle or a stored baseline"
    )


def _picked(run: Run, name: str) -> Run:
    kept = tuple(c for c in run.candidates if name in (c.name, c.variant))
    if not kept:
        raise unknown("candidate", name, [c.name for c in run.candidates], f"the run '{run.name}'")
    return dataclasses.replace(run, candidates=kept)


def _of_bundle(path: Path) -> Run:
    return of_manifest(bundle.verify(path, run_samples=False).manifest)


def of_manifest(manifest: Manifest) -> Run:
    """A bundle's part of the run that it came from."""
    there, made = manifest.environment, manifest.provenance
    steps = tuple(_step(s) for s in made.steps)
    own = Candidate(
        manifest.variant, manifest.target, tuple(s.key for s in steps), dict(manifest.runtime.options),
        steps[-1].key if steps else None, None, None, manifest.runtime.precision,
    )  # fmt: skip
    machine = Machine(there.cpu, there.architecture, 0, there.isa, 0, there.os, there.python, (), there.digest)
    outcomes = {v.outcome for v in manifest.verdicts}
    return Run(
        schema=RUN_SCHEMA,
        version=manifest.version,
        name=manifest.name,
        created=manifest.created,
        recipe=made.recipe,
        baseline=None,
        machine=machine,
        tools=made.tools,
        data=made.data,
        steps=steps,
        candidates=(own,),
        measurements=manifest.measurements,
        verdicts=manifest.verdicts,
        warnings=(),
        seconds=0.0,
        outcome="not gated" if not outcomes else "pass" if outcomes == {"pass"} else "fail",
    )


def _step(record: dict[str, Any]) -> StepRecord:
    """A step as a bundle keeps it: without how long it took."""
    return schema.decode(StepRecord, {"seconds": None, "cached": True, **record})
