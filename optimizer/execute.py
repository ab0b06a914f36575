"""Plan -> Run: make every artifact, measure it, judge it, and write down all of it."""

from __future__ import annotations

import dataclasses
import datetime
import time
from pathlib import Path
from typing import Any

import optimizer
from optimizer import assess, bundle, gates, report, scenarios, schema, transforms
from optimizer.bundle.runner import RUNNERS
from optimizer.console import Console
from optimizer.disk import disk_errors, write_atomically
from optimizer.errors import OptimizerError
from optimizer.plan import Plan
from optimizer.produce import Producer
from optimizer.store import Store
from optimizer.values import RUN_SCHEMA, Candidate, Measurement, Run


@dataclasses.dataclass(frozen=True)
class Executed:
    """The record of a build and the producer that still knows its artifacts and samples."""

    run: Run
    producer: Producer


def execute(plan: Plan, store: Store, console: Console, measure: bool = True) -> Executed:
    """Run a plan: steps through the store, then (with `measure`) accuracy, latency, size, and the gates.

    Raises OptimizerError for the first step that fails; what was finished before stays in the store.
    """
    start = time.perf_counter()
    producer = Producer(plan, store, console)
    producer.produce(plan.steps[0])  # always `load`: the data sets are fitted to what the model takes
    data = assess.data_records(producer) if measure or _calibrates(plan, store) else []
    for step in plan.steps[1:]:
        producer.produce(step)
    candidates = [_located(c, producer) for c in plan.candidates]
    assessor = assess.Assessor(producer)
    measurements, remarks = assessor.size([c for c in candidates if not c.skipped]), list[str]()
    if measure:
        candidates, more = _measure(assessor, candidates)
        loaded = scenarios.measure(producer, [c for c in candidates if not c.skipped])
        measurements += more + loaded.measurements
        remarks += loaded.remarks
    verdicts = gates.judge(plan.gates, measurements, candidates, plan.baseline) if measure else []
    run = Run(
        schema=RUN_SCHEMA,
        version=optimizer.__version__,
        name=plan.recipe.name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        recipe=plan.recipe.document(),
        baseline=plan.baseline,
        machine=plan.machine,
        tools=plan.tools(),
        data=tuple(data),
        steps=tuple(producer.done[s.key].record for s in plan.steps),
        candidates=tuple(candidates),
        measurements=tuple(measurements),
        verdicts=tuple(verdicts),
        warnings=(*(w for s in plan.steps for w in producer.done[s.key].record.warnings), *remarks),
        seconds=time.perf_counter() - start,
        outcome=gates.outcome(verdicts),
    )
    for text in remarks:
        console.warn(text)
    return Executed(_swept(run, producer, start) if measure else run, producer)


def _swept(run: Run, producer: Producer, start: float) -> Run:
    """The run with the best settings of what it would ship; without bundles, of the best per target."""
    recipe = producer.plan.recipe
    if recipe.measure.sweep is None:
        return run
    which = "best" if recipe.bundle == "none" else str(recipe.bundle)
    found, remarks = scenarios.settings(producer, chosen(run, which, allow_failed=False))
    for text in remarks:
        producer.console.warn(text)
    warnings = (*run.warnings, *remarks)
    return dataclasses.replace(run, settings=found, warnings=warnings, seconds=time.perf_counter() - start)


def _calibrates(plan: Plan, store: Store) -> bool:
    """Whether a step that is not in the store reads calibration data."""
    return any("calibrate" in s.plugin.DATA and store.get(s.key) is None for s in plan.steps)


def _located(candidate: Candidate, producer: Producer) -> Candidate:
    if candidate.skipped:
        return candidate
    artifact = producer.done[str(candidate.artifact)].artifact
    path = artifact.path.relative_to(producer.store.root).as_posix()
    return dataclasses.replace(candidate, path=path, size=artifact.size)


def _measure(assessor: assess.Assessor, candidates: list[Candidate]) -> tuple[list[Candidate], list[Measurement]]:
    candidates, found = assessor.accuracy(candidates)
    spec = assessor.plan.recipe.measure.latency
    if spec:
        found += assessor.latency([c for c in candidates if not c.skipped], spec)
    return [c if c.skipped else assessor.precision(c) for c in candidates], found


def write(executed: Executed, out: Path) -> dict[str, Path]:
    """run.json and the reports made from it, in the folder `out`."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "run.json", schema.dump_run(executed.run))
        return {"run": out / "run.json", **report.render(executed.run, out)}


def pack(executed: Executed, out: Path, allow_failed: bool = False) -> list[tuple[Path, Path]]:
    """The bundles that the recipe asks for, as (directory, archive) pairs below `out`."""
    producer, run = executed.producer, executed.run
    found = []
    for candidate in chosen(run, str(producer.plan.recipe.bundle), allow_failed):
        artifact = producer.done[str(candidate.artifact)].artifact
        preprocessing, files = _preprocessing(producer)
        with disk_errors(out), producer.console.task(f"{candidate.name}: bundle"):
            found.append(
                bundle.pack(
                    run,
                    candidate.name,
                    artifact,
                    producer.samples(artifact.signature).feeds,
                    preprocessing,
                    files,
                    out,
                    allow_failed=allow_failed,
                )
            )
    return found


def chosen(run: Run, which: str, allow_failed: bool) -> list[Candidate]:
    """The candidates to bundle: all that may be shipped, or per target the fastest of them.

    Only targets with a runner can be shipped (pytorch refers to the user's own code). A candidate with a gate that
    did not pass is left out unless `allow_failed`, and so is then its target's baseline: nobody asked for it alone.
    """
    if which == "none":
        return []
    bad = {v.subject for v in run.verdicts if v.outcome != "pass"}
    spoilt = {c.target for c in run.candidates if c.name in bad}
    plain = (run.baseline or "").partition("@")[0]
    able = [
        c
        for c in run.candidates
        if not c.skipped and c.target in RUNNERS
        if allow_failed or not (c.name in bad or (c.variant == plain and c.target in spoilt))
    ]
    if which == "all":
        return able
    targets = list(dict.fromkeys(c.target for c in able))
    return [min((c for c in able if c.target == t), key=lambda c: _rank(run, c)) for t in targets]


def _rank(run: Run, candidate: Candidate) -> tuple[float, int]:
    """Median latency at the smallest batch, then size: lower is better."""
    found = [
        (m.at.get("batch", 1), m.value)
        for m in run.measurements
        if (m.subject, m.metric, m.relation) == (candidate.name, "latency.p50", "absolute")
    ]
    return (min(found)[1] if found else 0.0, candidate.size or 0)


def _preprocessing(producer: Producer) -> tuple[dict[str, Any], dict[str, Path]]:
    """How raw examples become model inputs, and the files (tokenizers) that this needs."""
    role = next((r for r in ("evaluate", "calibrate") if r in producer.plan.data), None)
    if role is None:
        return {}, {}
    spec = producer.plan.data[role].spec
    files = {path.name: path for path in transforms.files(spec)}
    described = {"transforms": transforms.describe(spec), "inputs": spec.inputs, "labels": spec.labels}
    if len(files) != len(transforms.files(spec)):
        raise OptimizerError("two preprocessing files of the recipe have the same name", "rename one of them")
    return described, files
