"""Candidates -> measurements: accuracy through the store, latency in fresh processes, size from the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optimizer import dataset, fingerprint, gates, registry
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.measure import accuracy, constant, latency, memory, slices
from optimizer.measure.accuracy import Baseline
from optimizer.plan import Evaluation
from optimizer.produce import Producer
from optimizer.recipe import LatencySpec
from optimizer.steps import roles
from optimizer.store import Store, StoredEntry
from optimizer.values import Candidate, DataRecord, Measurement, Verdict

MEASURABLE = "it can be measured"
"""The gate that every candidate has: its process opens the artifact and answers until the end."""

MARK = "column "  # numpy.savez takes arrays as keywords, of which `file` is its own


def data_records(producer: Producer) -> list[DataRecord]:
    """What every data role of the plan holds, with the findings of the data check; the check is stored."""
    plan = producer.plan
    findings = _findings(producer) if "calibrate" in plan.data else ()
    return [
        DataRecord(
            role=role,
            name=planned.name,
            digest=planned.digest,
            examples=len(producer.dataset(role)),
            license=planned.spec.license,
            findings=findings if role == "calibrate" else (),
        )
        for role, planned in plan.data.items()
    ]


def _findings(producer: Producer) -> tuple[str, ...]:
    plan = producer.plan
    roles = {role: plan.data[role].digest for role in ("calibrate", "evaluate") if role in plan.data}
    key = fingerprint.of_value({"use": "check.data", "version": 1, "data": roles})
    entry = producer.store.get(key)
    if entry is None:
        with producer.store.lock(key):
            entry = producer.store.get(key) or _checked(producer, key, "evaluate" in roles)
    return tuple(entry.record["findings"])


def _checked(producer: Producer, key: str, evaluated: bool) -> StoredEntry:
    with producer.console.task("data check"), producer.store.stage(key) as out:
        evaluate = producer.dataset("evaluate") if evaluated else None
        found = dataset.check(producer.dataset("calibrate"), evaluate, samples=512)
        entry = producer.store.commit(out, key, {"use": "check.data", "format": "findings", "findings": found})
    for text in found:
        producer.console.warn(f"data: {text}")
    return entry


def rehearse(producer: Producer) -> None:
    """Try the metrics on what the loaded model says of the first examples, where steps are still to be made.

    Raises OptimizerError where a metric cannot read it. Where every candidate is trained first, only warns: what a
    model says untrained may be out of bounds.
    """
    plan, first = producer.plan, producer.plan.steps[0]
    asked = {e.candidate for e in (*plan.evaluations, *plan.selections)}
    if not asked or all(producer.store.get(step.key) for step in plan.steps[1:]):
        return
    source = producer.done[first.key].artifact
    feeds = producer.samples(source.signature).feeds[0]  # of the evaluation data, as there are metrics
    data = producer.dataset("evaluate")
    count = max(len(next(iter(feeds.values()))) // data.spec.views, 1)
    outputs = producer.reference(source)[0]
    if accuracy.broken(outputs):
        return  # told when a candidate is evaluated, with the example
    try:
        accuracy.rows(outputs, next(data.batches(count, limit=count)), plan.metrics, data.name)
    except OptimizerError as error:
        chains = [c.steps for c in plan.candidates if c.name in asked]
        learnt = {s.key for s in plan.steps if "train" in roles(s.plugin, s.options, plan.data)}
        if not all(learnt.intersection(steps) for steps in chains):
            raise
        producer.console.warn(f"before its training: {error.message}; {error.hint}")


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """What accuracy found: measurements of all data, of its slices, what precision ran per candidate, and cautions."""

    measurements: list[Measurement]
    slices: list[Measurement]
    precisions: dict[str, str]
    cautions: list[str]


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A stored evaluation: per metric its rows, and the columns to slice by."""

    entry: StoredEntry
    rows: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]


class Assessor:
    """Measures the candidates of one plan, whose artifacts `producer` has made."""

    def __init__(self, producer: Producer) -> None:
        self.producer = producer
        self.plan = producer.plan
        self.store: Store = producer.store
        self.console: Console = producer.console

    def accuracy(self, only: Collection[str] | None = None) -> Accuracy:
        """Every metric of every candidate (or of `only` these) on the evaluation data, whole and by slices."""
        kept = {e.candidate: self._kept(e) for e in self.plan.evaluations if only is None or e.candidate in only}
        names = self.plan.data["evaluate"].spec.labels if kept else []
        parts = slices.cut(next(iter(kept.values())).columns, names) if kept else []
        judged = sum(len(p.indices) >= slices.FEWEST for p in parts) * sum(bool(self._baseline(n, kept)) for n in kept)
        measured: list[Measurement] = []
        sliced: list[Measurement] = []
        for name, own in kept.items():
            given = (self.plan.metrics, self._baseline(name, kept), self.plan.machine.digest, self.plan.recipe.seed)
            protocol = self._protocol("evaluate", own.entry)
            measured += accuracy.measurements(name, own.rows, *given, protocol, self.plan.limits())
            sliced += accuracy.sliced(name, own.rows, parts, *given, protocol, max(judged, 1))
        self._remember(measured)
        precisions = {name: str(own.entry.record["precision"]) for name, own in kept.items()}
        return Accuracy(
            measured, sliced, precisions, constant.cautions(self._judged(kept), self.plan.metrics, measured)
        )

    def _judged(self, kept: Mapping[str, _Kept]) -> list[constant.Judged]:
        """The baselines that others are compared with."""
        names = dict.fromkeys(str(against) for name in kept if (against := self.plan.against(name)))
        return [constant.Judged(name, kept[name].rows, kept[name].columns.get(slices.CLASS)) for name in names]

    def _remember(self, measured: list[Measurement]) -> None:
        """Keep how wide the paired intervals came out: the best foretelling of the next run on this data."""
        widths: dict[str, float] = {}
        for m in measured:
            if m.relation == "drop" and m.low is not None and m.high is not None:
                widths[m.metric] = max(widths.get(m.metric, 0.0), (m.high - m.low) / 2)
        for metric, half in widths.items():
            self.store.remember(self.plan.precision_slot(metric), {"half": half})

    def selection(self, only: Collection[str] | None = None) -> list[Measurement]:
        """Every metric of every candidate (or of `only` these) on the data that candidates are chosen on."""
        asked = {e.candidate for e in self.plan.selections if only is None or e.candidate in only}
        needed = asked | {str(self.plan.against(name)) for name in asked}
        kept = {e.candidate: self._kept(e) for e in self.plan.selections if e.candidate in needed}
        found: list[Measurement] = []
        for name, own in ((name, own) for name, own in kept.items() if name in asked):
            protocol = self._protocol("select", own.entry)
            machine, seed = self.plan.machine.digest, self.plan.recipe.seed
            against = self._baseline(name, kept)
            found += accuracy.measurements(name, own.rows, self.plan.metrics, against, machine, seed, protocol)
        return found

    def _baseline(self, name: str, kept: Mapping[str, _Kept]) -> Baseline | None:
        against = self.plan.against(name)
        return (against, kept[against].rows) if against else None

    def _protocol(self, role: str, entry: StoredEntry) -> dict[str, Any]:
        return {"data": self.plan.data[role].name, "batch": self.plan.recipe.measure.batch, "entry": entry.key}

    def _kept(self, evaluation: Evaluation) -> _Kept:
        entry = self._evaluated(evaluation)
        rows, columns = (dict(np.load(entry.path / name)) for name in ("rows.npz", "columns.npz"))
        return _Kept(entry, rows, {name.removeprefix(MARK): values for name, values in columns.items()})

    def _evaluated(self, evaluation: Evaluation) -> StoredEntry:
        entry = self.store.get(evaluation.key)
        if entry:
            self.store.touch(entry)
            return entry
        with self.store.lock(evaluation.key):
            return self.store.get(evaluation.key) or self._evaluate(evaluation)

    def _evaluate(self, evaluation: Evaluation) -> StoredEntry:
        target = registry.load("targets", evaluation.candidate.rpartition("@")[2])
        artifact = self.producer.done[evaluation.artifact].artifact
        label = f"{evaluation.candidate}: evaluate" + (" (select)" if evaluation.role == "select" else "")
        with self.console.task(label, "examples") as advance, self.store.stage(evaluation.key) as out:
            data, metrics = self.producer.dataset(evaluation.role), self.plan.metrics
            with target.open(artifact, evaluation.options) as session:
                found = accuracy.collect(session, data, metrics, self.plan.recipe.measure.batch, advance)
                precision = session.precision
            np.savez(out / "rows.npz", **found.rows)  # type: ignore[arg-type]  # numpy types keywords as bool
            np.savez(out / "columns.npz", **{MARK + n: c for n, c in found.columns.items()})  # type: ignore[arg-type]  # as above
            record = {
                "use": "evaluate",
                "format": "evaluation",
                "precision": precision,
                "examples": len(data),
                "spread": accuracy.spread(found.rows, metrics, self.plan.recipe.seed),
                "ingredients": evaluation.ingredients,
            }
            return self.store.commit(out, evaluation.key, record)

    def latency(self, candidates: list[Candidate], spec: LatencySpec) -> tuple[list[Measurement], list[Verdict]]:
        """Latency, throughput, load time and peak memory of every candidate, each in fresh processes.

        Measures until the gates are decided, as far as `spec` allows. A candidate whose process fails does not stop
        the others: it gets a failed verdict that says why.
        """
        failures: dict[str, Verdict] = {}

        def enough(found: Sequence[Measurement]) -> bool:
            asked = [dataclasses.replace(g, batch=g.batch or min(spec.batch)) for g in self.plan.gates]
            alive = [c for c in candidates if c.name not in failures]
            return gates.decided(asked, found, alive, self.plan.baseline)

        def failed(name: str, error: OptimizerError) -> None:
            subject = name.removesuffix(latency.TWIN)
            self.console.warn(error.message)
            failures[subject] = Verdict(MEASURABLE, subject, "fail", error.message)

        subjects = [
            latency.Subject(c.name, c.target, self.producer.done[str(c.artifact)].artifact, c.options)
            for c in candidates
        ]
        samples = self.producer.samples(subjects[0].artifact.signature)
        baselines = {c.name: self.plan.against(c.name) for c in candidates}
        with self.console.task(f"latency of {len(subjects)} candidates") as advance:
            found = latency.measure(
                subjects,
                baselines,
                samples.feeds[0],
                spec,
                self.plan.recipe.seed,
                self.plan.machine.digest,
                advance,
                enough=enough,
                failed=failed,
            )
        return found, list(failures.values())

    def size(self, candidates: list[Candidate]) -> list[Measurement]:
        """Artifact sizes, absolute and against the baseline."""
        sizes = {c.name: self.producer.done[str(c.artifact)].artifact.size for c in candidates}
        found: list[Measurement] = []
        for name, size in sizes.items():
            against = self.plan.baselines[name]
            baseline = (against, sizes[against]) if against else None
            found += memory.size_measurements(name, size, baseline, self.plan.machine.digest)
        return found

    def precision(self, candidate: Candidate, known: Mapping[str, str]) -> Candidate:
        """The candidate with the precision that really runs, asked of a session where no evaluation has."""
        target = registry.load("targets", candidate.target)
        if candidate.pending:
            told = target.built_as(self.producer.done[str(candidate.artifact)].artifact)
            return dataclasses.replace(candidate, precision=told)
        if candidate.name in known:
            return dataclasses.replace(candidate, precision=known[candidate.name])
        options: Any = target.Options.model_validate(candidate.options)
        with target.open(self.producer.done[str(candidate.artifact)].artifact, options) as session:
            return dataclasses.replace(candidate, precision=session.precision)
