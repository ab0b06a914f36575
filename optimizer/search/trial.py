"""One trial after the other, for real: built through the store, compared, timed in fresh processes, evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from optimizer import assess, fingerprint, registry, schema
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain.sums import Sums
from optimizer.gates import Gate
from optimizer.gates.grammar import TIMED
from optimizer.measure import accuracy, latency, memory
from optimizer.plan import Plan, plan
from optimizer.produce import Producer
from optimizer.protocols import Feeds
from optimizer.search import points
from optimizer.search.asked import Asked
from optimizer.search.fallback import Broken, harmful
from optimizer.search.points import Point
from optimizer.search.runner import Built, Restored, Timed
from optimizer.search.standing import Stand, stand
from optimizer.store import Store
from optimizer.usercode import attempt
from optimizer.values import Artifact, Candidate, Measurement, Relation

COMPARED = 64  # examples whose outputs are compared with the baseline's
TOGETHER = 16  # of them per inference
RESTARTS = 3  # fresh processes per trial when many are screened
FACTS = ("interval", "defined", "restarts", "rounds", "data", "entry", "lost", "gained", "boundary", "includes")
"""What a trial's numbers keep of their protocol: a search has many of them."""
OBJECTIVES: Mapping[str, tuple[str, Relation]] = {
    "latency.p50": ("latency.p50", "speedup"),
    "throughput": ("throughput", "ratio"),
    "size": ("size", "ratio"),
    "memory": ("memory.peak", "ratio"),
}


class Trials:
    """Makes and measures the trials of one search; see `engine.Runner`."""

    def __init__(self, asked: Asked, store: Store, console: Console) -> None:
        self.asked = asked
        self.base = plan(points.start(asked))
        self.producer = Producer(self.base, store, console)
        self._plans: dict[str, tuple[Plan, Candidate]] = {}
        self._expected: dict[str, list[dict[str, Any]]] = {}

    def prepare(self) -> None:
        """Build what trials are compared with: the baselines, and the model as it is on each target.

        Raises OptimizerError for a target on which trials would have no baseline.
        """
        self._refuse_homeless()
        self.producer.produce(self.base.steps[0])  # the data sets are fitted to what the model takes
        assess.rehearse(self.producer)
        wanted = [self._plain(name) for name in (*self._baselines(), *map(self._as_is, self.asked.targets))]
        keys = {key for c in wanted for key in c.steps}
        for step in self.base.steps:
            if step.key in keys:
                self.producer.produce(step)
        assess.Assessor(self.producer).selection(self._baselines())
        self._refuse_dims()

    def scope(self) -> str:
        """Digest of what the numbers of all trials depend on beside their own ingredients."""
        asked, base = self.asked, self.base
        spec = asked.latency
        evaluations = [e.key for e in base.selections if e.candidate in self._baselines()]
        return fingerprint.of_value({
            "machine": base.machine.digest,
            "gates": [gate.text for gate in base.gates] + list(asked.recipe.gates),
            "objective": [asked.spec.objective, asked.batch, asked.dims, asked.yardstick],
            "latency": [spec.seconds, spec.most_restarts, spec.threads, spec.pin],
            "evaluations": evaluations,
            "data": {role: planned.digest for role, planned in base.data.items()},
        })  # fmt: skip

    def key(self, point: Point) -> str:
        candidate = self._planned(point)[1]
        return fingerprint.of_value([candidate.artifact, candidate.skipped, point.target, candidate.options])

    def build(self, point: Point) -> Built:
        planned, candidate = self._planned(point)
        artifact = attempt(point.name, lambda: self._artifact(planned, candidate))
        error, precision = attempt(point.name, lambda: self._compared(point, artifact, candidate))
        against = planned.baselines[candidate.name]
        base = (str(against), self._base(str(against)).size) if against else None
        size = memory.size_measurements(point.name, artifact.size, base, planned.machine.digest)
        digest = fingerprint.of_value([artifact.digest, candidate.options])
        return Built(digest, tuple(_brief(m) for m in size), error, precision)

    def time(self, given: Sequence[Point], thorough: bool) -> Mapping[str, Timed | str]:
        asked = self.asked
        timed = any(gate.metric in TIMED for gate in self.base.gates)
        if asked.spec.objective == "size" and not timed and not thorough:  # time only tells equals apart, in the end
            return {p.name: Timed(_brief(self._size(p)), ()) for p in given}
        failures: dict[str, str] = {}
        own = {p.name: str(self._planned(p)[0].baselines[self._planned(p)[1].name]) for p in given}
        plain = list(dict.fromkeys([asked.yardstick, *own.values()]))
        subjects = [self._subject(name, self._plain(name), self._base(name)) for name in plain]
        for point in given:
            planned, candidate = self._planned(point)
            subjects.append(self._subject(point.name, candidate, self._artifact(planned, candidate)))
        spec = asked.latency
        restarts = spec.restarts if thorough else min(spec.restarts, RESTARTS)
        seconds = spec.seconds / max(spec.restarts, spec.most_restarts) * restarts
        changes = {"batch": [asked.batch], "dims": asked.dims, "restarts": restarts, "most_restarts": restarts}
        found = latency.measure(
            subjects,
            {s.name: None if s.name == asked.yardstick else asked.yardstick for s in subjects},
            self.producer.samples(subjects[0].artifact.signature).feeds[0],
            spec.model_copy(update={**changes, "seconds": seconds, "precision": None}),
            self.base.recipe.seed,
            self.base.machine.digest,
            failed=lambda name, error: failures.update({name.removesuffix(latency.TWIN): error.message}),
        )
        if asked.yardstick in failures:
            raise OptimizerError(failures[asked.yardstick], "the baseline itself cannot be measured")
        return {p.name: failures.get(p.name) or self._timed(p, own[p.name], found) for p in given}

    def judge(self, point: Point) -> tuple[Measurement, ...]:
        planned, candidate = self._planned(point)
        self._artifact(planned, candidate)
        assessor = assess.Assessor(self.producer.following(planned))
        found = attempt(point.name, lambda: assessor.selection({candidate.name}))
        return tuple(dataclasses.replace(_brief(m), subject=point.name) for m in found)

    def stand(self, point: Point, found: Sequence[Measurement]) -> Stand:
        planned, candidate = self._planned(point)
        given = [gate for gate in planned.gates if self._answered(gate)]
        renamed = [dataclasses.replace(m, subject=candidate.name) for m in found]
        return stand(given, renamed, candidate, planned.baseline, len(self.producer.dataset("evaluate")))

    def restored(self, point: Point, seconds: float) -> list[Restored]:
        planned, candidate = self._planned(point)
        baseline = self._base(self._as_is(point.target))
        broken = Broken(self.asked, point, planned, candidate, self._artifact(planned, candidate), baseline)
        return harmful(broken, self.producer, seconds, lambda found: self.stand(point, found))

    def _planned(self, point: Point) -> tuple[Plan, Candidate]:
        known = self._plans.get(point.identity)
        if known is None:
            found = plan(points.trial(self.asked, point), self.base.machine)
            own = (c for c in found.candidates if (c.variant, c.target) == (self.asked.variant, point.target))
            known = self._plans[point.identity] = found, next(own)
        return known

    def _artifact(self, planned: Plan, candidate: Candidate) -> Artifact:
        """The candidate's artifact: from memory, the store, or built now."""
        producer = self.producer.following(planned)
        for key in candidate.steps:
            if key not in producer.done:
                producer.produce(planned.step(key))
        return producer.done[str(candidate.artifact)].artifact

    def _as_is(self, target: str) -> str:
        """The candidate of the base plan that is the model as it is, whether or not the target has a baseline."""
        return f"{self.asked.variant}@{target}"

    def _baselines(self) -> list[str]:
        """The candidates that gates and times of trials refer to: one per target, or one for all."""
        own = (self.base.baselines[self._as_is(target)] for target in self.asked.targets)
        return list(dict.fromkeys([self.asked.yardstick, *(name for name in own if name)]))

    def _plain(self, name: str) -> Candidate:
        return next(c for c in self.base.candidates if c.name == name)

    def _base(self, name: str) -> Artifact:
        return self.producer.done[str(self._plain(name).artifact)].artifact

    def _subject(self, name: str, candidate: Candidate, artifact: Artifact) -> latency.Subject:
        return latency.Subject(name, candidate.target, artifact, candidate.options)

    def _compared(self, point: Point, artifact: Artifact, candidate: Candidate) -> tuple[float, str]:
        """Noise over signal of the worst output on calibration data against the model as it is, and what really ran."""
        plain = self._as_is(point.target)
        if plain not in self._expected:
            self._expected[plain] = self._run(self._base(plain), self._plain(plain))[0]
        found, precision = self._run(artifact, candidate)
        sums: dict[str, Sums] = {}
        for expected, outputs in zip(self._expected[plain], found, strict=True):
            for name, theirs in expected.items():
                own = sums.setdefault(name, Sums())
                if theirs.dtype.kind == "f":
                    own.add(theirs, outputs[name])
                else:  # class indices and the like: the share that differs
                    differs = (theirs != outputs[name]).astype("float64")
                    own.add(differs * 0 + 1, 1 - differs)
        return max((s.ratio for s in sums.values()), default=0.0), precision

    def _run(self, artifact: Artifact, candidate: Candidate) -> tuple[list[dict[str, Any]], str]:
        target = registry.load("targets", candidate.target)
        options = schema.parse(target.Options, candidate.options, candidate.name)
        with target.open(artifact, options) as session:
            return [accuracy.run(session, feeds) for feeds in self._feeds()], session.precision

    def _feeds(self) -> list[Feeds]:
        role = "calibrate" if "calibrate" in self.base.data else "select"
        return [batch.feeds for batch in self.producer.dataset(role).batches(TOGETHER, COMPARED)]

    def _timed(self, point: Point, own: str, found: Sequence[Measurement]) -> Timed:
        """A trial's objective against the yardstick, and its times against the baseline of its own target."""
        name = point.name
        measured = {(m.subject, m.metric, m.relation): m for m in found}
        kept = []
        for metric, family in TIMED.items():
            absolute, ratio = measured.get((name, metric, "absolute")), measured.get((name, metric, family.relation))
            kept += [absolute] if absolute else []
            if ratio:
                kept.append(_against(ratio, own, measured.get((own, metric, family.relation))))
        metric, relation = OBJECTIVES[self.asked.spec.objective]
        objective = measured.get((name, metric, relation)) or self._size(point)
        return Timed(_brief(objective), tuple(_brief(m) for m in kept))

    def _size(self, point: Point) -> Measurement:
        """The size against the yardstick's, whatever the target."""
        artifact, base = self._artifact(*self._planned(point)), self._base(self.asked.yardstick)
        given = (self.asked.yardstick, base.size)
        return memory.size_measurements(point.name, artifact.size, given, self.base.machine.digest)[-1]

    def _answered(self, gate: Gate) -> bool:
        """Whether trials are measured under the conditions that a gate is about."""
        if gate.metric in TIMED:
            batch = gate.batch or min(self.asked.latency.batch)
            return batch == self.asked.batch and self.asked.dims == self.asked.latency.dims
        return gate.metric == "size" or gate.metric in self.base.metrics

    def _refuse_homeless(self) -> None:
        homeless = [target for target in self.asked.targets if not self.base.baselines[self._as_is(target)]]
        if homeless:
            built = [c for c in self.base.candidates if c.variant == self.asked.plain and c.skipped is None]
            raise OptimizerError(
                f"recipe '{self.asked.recipe.name}', step 'auto': the baseline '{self.asked.plain}' is not built for "
                f"{' and '.join(homeless)}, so trials there have nothing to be compared with",
                f"name one baseline for all targets (baseline: {built[0].name}), or search only where it is built "
                f"(auto: {{targets: [{', '.join(c.target for c in built)}]}})",
            )

    def _refuse_dims(self) -> None:
        signature = self._base(self.asked.yardstick).signature
        known = [name for name in signature.symbols() if name != signature.batch_symbol()]
        unknown = next((name for name in self.asked.dims if name not in known), None)
        if unknown:
            raise OptimizerError(
                f"recipe '{self.asked.recipe.name}', step 'auto', at: '{unknown}' is no free size of the model",
                f"available: {', '.join(['batch', *known])}",
            )


def _against(ratio: Measurement, own: str, base: Measurement | None) -> Measurement:
    """A ratio to the yardstick as one to another baseline of the same session: the quotient, without an interval."""
    if ratio.against == own or base is None:
        return ratio
    how = {"defined": f"quotient of two ratios to {ratio.against} in one session"}
    return dataclasses.replace(ratio, value=ratio.value / base.value, low=None, high=None, against=own, protocol=how)


def _brief(found: Measurement) -> Measurement:
    return dataclasses.replace(found, protocol={k: v for k, v in found.protocol.items() if k in FACTS})
