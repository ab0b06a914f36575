"""Accuracy side by side: subjects and data in, a Run with paired drops out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from optimizer import dataset, fingerprint, gates, machine, registry, schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.measure import accuracy, constant, slices
from optimizer.recipe import DataRef, DataSpec, Use
from optimizer.store import Store, StoredEntry
from optimizer.subjects import Opened, Refused
from optimizer.trial import entrants, record
from optimizer.trial.bench import Benched
from optimizer.values import DataRecord, Measurement

LAYOUT = 2
CLASSES = "classes.npy"


@dataclass(frozen=True)
class Flags:
    """What `optc eval` was told."""

    data: str
    label: str | None = None
    metrics: Sequence[str | Use] = ()  # a name alone, or with options
    baseline: str | None = None
    max_drop: str | None = None
    batch: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """One evaluation for all subjects: the data, the metrics, the gates."""

    spec: DataSpec
    digest: str
    metrics: accuracy.Metrics
    gates: Sequence[gates.Gate]


def evaluate(subjects: Sequence[Opened | Refused], flags: Flags, store: Store, console: Console) -> Benched:
    """Evaluate all subjects on the same examples; one that was refused or fails is named, the others go on.

    Results per example go into the store, under a key of all that decides them. Raises OptimizerError for what can be
    seen before, and when not one subject could be evaluated.
    """
    start = time.perf_counter()
    task = plan(flags)
    baseline = entrants.named(flags.baseline, subjects)
    opened, failed = entrants.split(subjects, console)
    entries, examples, faulty = _all_evaluated(opened, task, flags, store, console)
    failed |= faulty
    alive = [o for o in opened if o.subject.name in entries]
    warnings = [f"{o.subject.name}: {note}" for o in opened for note in o.notes]
    if baseline in failed:
        baseline = alive[0].subject.name
        warnings.append(f"the baseline failed; the others are compared with {baseline}")
    rows = {name: dict(np.load(entry.path / "rows.npz")) for name, entry in entries.items()}
    measurements = [*_measured(entries, rows, baseline, task, flags), *record.sizes(alive, baseline)]
    if len(alive) > 1:
        judged = [constant.Judged(baseline, rows[baseline], _classes(entries[baseline]))]
        warnings += constant.cautions(judged, task.metrics, measurements)
    told = {name: f"failed: {error.message.splitlines()[0]}" for name, error in failed.items()}
    asked = {"data": flags.data, "metrics": list(task.metrics), "batch": flags.batch, "max_drop": flags.max_drop}
    run = record.record(
        "eval", {k: v for k, v in asked.items() if v is not None}, subjects, baseline, measurements, (),
        precision={name: entry.record["precision"] for name, entry in entries.items()}, failed=told,
        data=[DataRecord("evaluate", flags.data, task.digest, examples, task.spec.license)],
        warnings=[*warnings, *(e.message for e in failed.values())], seconds=time.perf_counter() - start,
    )  # fmt: skip
    verdicts = gates.judge(task.gates, measurements, run.candidates, baseline)
    return Benched(dataclasses.replace(run, verdicts=tuple(verdicts), outcome=gates.outcome(verdicts)), failed)


def plan(flags: Flags) -> Task:
    """The data, metrics and gates behind the flags. Raises OptimizerError for every fault that can be seen now."""
    if flags.batch < 1:
        raise OptimizerError(f"--batch {flags.batch}: evaluates nothing", "the least allowed is 1")
    spec = dataset.resolve(DataRef(ref=flags.data, label=flags.label), Path.cwd())
    names = list(flags.metrics) or (["top1"] if spec.label else [])
    if not names:
        raise OptimizerError(
            f"data '{flags.data}' names no label, and no metric is given",
            f"give --label COLUMN, or --metric NAME: {', '.join(registry.names('metrics'))}",
        )
    metrics = dict(_metric(name) for name in names)
    own = [n for n, (plugin, _) in metrics.items() if plugin.AGAINST != "baseline"]
    if flags.max_drop and not own:
        raise OptimizerError(f"--max-drop {flags.max_drop}: {', '.join(metrics)} have no drop", "add --metric top1")
    parsed = tuple(gates.parse(f"{name} drop <= {flags.max_drop}") for name in own if flags.max_drop)
    facts = {
        name: gates.Fact(getattr(o, "unit", p.UNIT), getattr(o, "better", p.BETTER), p.AGAINST == "baseline")
        for name, (p, o) in metrics.items()
    }
    gates.check(parsed, facts, False, [])
    return Task(spec, dataset.digest(spec), metrics, parsed)


def _metric(asked: str | Use) -> tuple[str, tuple[Any, Any]]:
    """A metric by its name, or by file.py:callable."""
    name, own = (asked.name, asked.options) if isinstance(asked, Use) else (asked, {})
    plugin = registry.load("metrics", "python" if ":" in name else name)
    options = schema.parse(
        plugin.Options, {**own, **({"entry": name} if ":" in name else {})}, f"--metric {name}", Path.cwd()
    )
    return name.rpartition(":")[2], (plugin, options)


def _all_evaluated(
    opened: Sequence[Opened], task: Task, flags: Flags, store: Store, console: Console
) -> tuple[dict[str, StoredEntry], int, dict[str, OptimizerError]]:
    """The stored results of those that could be evaluated, the number of examples, and why the others could not.

    Who is left out is said once somebody is not. Raises OptimizerError when everybody is, with what all fail by alike.
    """
    entries: dict[str, StoredEntry] = {}
    failed: dict[str, OptimizerError] = {}
    untold: dict[str, OptimizerError] = {}
    examples = 0
    for one in opened:
        name = one.subject.name
        try:
            entries[name], examples = _evaluated(one, task, flags, store, console)
        except OptimizerError as error:
            untold[name] = error
        if entries:
            failed |= entrants.left_out(untold, console)
            untold = {}
    if not entries:
        first, *others = untold.values()
        if all(other.message == first.message for other in others):
            raise first
        failed = entrants.left_out(untold, console)
        raise OptimizerError(f"nothing could be evaluated: {next(iter(failed.values())).message}", first.hint)
    return entries, examples, failed


def _evaluated(one: Opened, task: Task, flags: Flags, store: Store, console: Console) -> tuple[StoredEntry, int]:
    """The stored results per example of one subject, made now unless they are there; and the number of examples."""
    subject = one.subject
    plugin = registry.load("targets", subject.target)
    options = schema.parse(plugin.Options, subject.options, f"'{subject.name}': options of {subject.target}")
    data = dataset.open(task.spec, flags.data, subject.artifact.signature, flags.seed)
    ingredients = {
        "layout": LAYOUT,
        "use": "evaluate",
        "source": [subject.artifact.format, subject.artifact.digest],
        "target": [subject.target, plugin.VERSION, schema.ingredients(options)],
        "data": task.digest,
        "seed": flags.seed,
        "batch": flags.batch,
        "metrics": {name: [m.__name__, schema.ingredients(o)] for name, (m, o) in task.metrics.items()},
        "tools": {name: machine.version_of(name) for name in plugin.TOOLS},
        "isa": machine.isa_digest(machine.here()),
    }
    if device := plugin.runs_on(options) if hasattr(plugin, "runs_on") else None:
        ingredients["device"] = device
    key = fingerprint.of_value(ingredients)
    with store.lock(key):
        entry = store.get(key)
        if entry is None:
            with console.task(f"{subject.name}: evaluate", "examples") as advance, store.stage(key) as out:
                with plugin.open(subject.artifact, options) as session:
                    found = accuracy.collect(session, data, task.metrics, flags.batch, advance)
                    precision = session.precision
                np.savez(out / "rows.npz", **found.rows)  # type: ignore[arg-type]  # numpy types keywords as bool
                if slices.CLASS in found.columns:
                    np.save(out / CLASSES, found.columns[slices.CLASS])
                made = {"use": "evaluate", "format": "evaluation", "precision": precision, "ingredients": ingredients}
                entry = store.commit(out, key, made)
    store.touch(entry)
    return entry, len(data)


def _classes(entry: StoredEntry) -> np.ndarray | None:
    file = entry.path / CLASSES
    return np.load(file) if file.is_file() else None


def _measured(
    entries: Mapping[str, StoredEntry],
    rows: Mapping[str, Mapping[str, np.ndarray]],
    baseline: str,
    task: Task,
    flags: Flags,
) -> list[Measurement]:
    found: list[Measurement] = []
    for name, entry in entries.items():
        base = (baseline, rows[baseline]) if name != baseline else None
        protocol = {"data": flags.data, "batch": flags.batch, "entry": entry.key}
        found += accuracy.measurements(
            name, rows[name], task.metrics, base, machine.here().digest, flags.seed, protocol
        )
    return found
