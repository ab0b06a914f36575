"""Plan -> Run: make every artifact, measure it, judge it, and write down all of it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optimizer
from optimizer import assess, bundle, choice, gates, runtimes, scenarios, transforms
from optimizer.console import Console
from optimizer.disk import disk_errors
from optimizer.errors import OptimizerError
from optimizer.plan import Plan
from optimizer.produce import Producer
from optimizer.steps import roles
from optimizer.store import Store
from optimizer.values import RUN_SCHEMA, Candidate, Measurement, Run, Verdict


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
    for plugin, options in plan.metrics.values() if measure else ():
        getattr(plugin, "ready", lambda options: None)(options)
    producer = Producer(plan, store, console)
    with _rare_collection():
        producer.produce(plan.steps[0])  # always `load`: the data sets are fitted to what the model takes
    runtimes.check_dims(plan.recipe, producer.done[plan.steps[0].key].artifact.signature)
    data = assess.data_records(producer) if measure or _calibrates(plan, store) else []
    if measure:
        assess.rehearse(producer)
    with _rare_collection():
        for step in plan.steps[1:]:
            producer.produce(step)
    candidates = [_located(c, producer) for c in plan.candidates]
    taken = _measure(assess.Assessor(producer), candidates, measure)
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
        candidates=tuple(taken.candidates),
        measurements=tuple(taken.measurements),
        verdicts=tuple(taken.verdicts),
        warnings=(*(f"{s.label}: {w}" for s in plan.steps for w in producer.done[s.key].record.warnings), *taken.notes),
        seconds=time.perf_counter() - start,
        outcome=gates.outcome(taken.verdicts),
        slices=tuple(taken.slices),
        selection=tuple(taken.selection),
    )
    return Executed(_swept(run, producer, start) if measure else run, producer)


@contextlib.contextmanager
def _rare_collection() -> Iterator[None]:
    """Look for garbage rarely: exporters and simplifiers make millions of objects that live on, and walk them all.

    Worth about a twentieth of a build of MiniLM; the price is a twentieth of its memory.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _swept(run: Run, producer: Producer, start: float) -> Run:
    """The run with the best settings of what it would ship; without bundles, of the best per target."""
    recipe = producer.plan.recipe
    if recipe.measure.sweep is None:
        return run
    which = "best" if recipe.bundle == "none" else str(recipe.bundle)
    found, remarks = scenarios.settings(producer, choice.chosen(run, which, allow_failed=False))
    for text in remarks:
        producer.console.warn(text)
    warnings = (*run.warnings, *remarks)
    return dataclasses.replace(run, settings=found, warnings=warnings, seconds=time.perf_counter() - start)


def _calibrates(plan: Plan, store: Store) -> bool:
    """Whether a step that is not in the store reads calibration data."""
    return any("calibrate" in roles(s.plugin, s.options, plan.data) and store.get(s.key) is None for s in plan.steps)


def _located(candidate: Candidate, producer: Producer) -> Candidate:
    if candidate.skipped:
        return candidate
    artifact = producer.done[str(candidate.artifact)].artifact
    path = artifact.path.relative_to(producer.store.root).as_posix()
    return dataclasses.replace(candidate, path=path, size=artifact.size)


@dataclasses.dataclass
class _Taken:
    """What measuring adds to a run."""

    candidates: list[Candidate]
    measurements: list[Measurement]
    verdicts: list[Verdict] = dataclasses.field(default_factory=list)
    slices: list[Measurement] = dataclasses.field(default_factory=list)
    selection: list[Measurement] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def _measure(assessor: assess.Assessor, candidates: list[Candidate], measure: bool) -> _Taken:
    """Sizes, and with `measure` accuracy, latency and verdicts; with a `select` split, choose there first."""
    built = [c for c in candidates if not c.skipped]
    found = _Taken(candidates, assessor.size(built))
    if not measure:
        return found
    plan = assessor.plan
    if not plan.selections:
        accuracy = assessor.accuracy()
        times, failures, remarks = _timed(assessor, built)
        found.measurements += accuracy.measurements + times
        found.verdicts = [*failures, *gates.judge(plan.gates, found.measurements, candidates, plan.baseline)]
        crowded = choice.crowded(candidates, plan.baseline) if plan.metrics else None
        found.notes = [*remarks, *([crowded] if crowded else []), *accuracy.cautions]
    else:
        found.selection = assessor.selection()
        times, failures, remarks = _timed(assessor, built)
        costs, every = found.measurements + times, plan.recipe.bundle == "all"
        broken = {v.subject for v in failures}
        able = [c for c in candidates if c.name not in broken]
        names = choice.selected(plan.gates, [*costs, *found.selection], able, plan.baseline, every)
        against = {str(plan.against(name)) for name in names}
        plain = {c.name for c in built if plan.baseline in (c.variant, c.name)}
        accuracy = assessor.accuracy({*names, *against, *plain})
        found.measurements = costs + accuracy.measurements
        given = (plan.gates, found.measurements, found.selection, candidates, plan.baseline)
        found.verdicts = [*failures, *choice.judged(*given, names)]
        found.notes = [*remarks, *_chosen(built, names, plain), *accuracy.cautions]
    for note in found.notes:
        assessor.console.warn(note)
    found.slices = accuracy.slices
    found.candidates = [c if c.skipped else assessor.precision(c, accuracy.precisions) for c in candidates]
    return found


def _timed(assessor: assess.Assessor, built: list[Candidate]) -> tuple[list[Measurement], list[Verdict], list[str]]:
    """Latency and the scenarios under load: numbers, verdicts on those that could not be measured, and remarks."""
    built = [c for c in built if c.pending is None]
    if not built:
        return [], [], []
    spec = assessor.plan.recipe.measure.latency
    times, failures = assessor.latency(built, spec) if spec else ([], [])
    broken = {v.subject for v in failures}
    loaded = scenarios.measure(assessor.producer, [c for c in built if c.name not in broken])
    failures += [Verdict(assess.MEASURABLE, n, "fail", e.message) for n, e in loaded.failures.items()]
    return times + loaded.measurements, failures, loaded.remarks


def _chosen(built: list[Candidate], names: list[str], plain: set[str]) -> list[str]:
    """Who was chosen on the `select` data, and who was left behind."""
    settled = {name.rpartition("@")[2] for name in names}
    left = [c.name for c in built if c.name not in {*names, *plain} and c.target in settled]
    nothing = sorted({c.target for c in built if c.name not in plain} - settled)
    others = f"; not chosen, so not evaluated or judged: {', '.join(left)}" if left else ""
    found = [f"chosen on the select data: {', '.join(names)}{others}"] if names else []
    return found + [f"nothing for {target} met every gate on the select data" for target in nothing]


def pack(executed: Executed, out: Path, allow_failed: bool = False) -> list[tuple[Path, Path]]:
    """The bundles that the recipe asks for, as (directory, archive) pairs below `out`."""
    producer, run = executed.producer, executed.run
    found = []
    for candidate in choice.chosen(run, str(producer.plan.recipe.bundle), allow_failed):
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
