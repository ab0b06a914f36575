"""Candidates under load: the scenarios of the recipe, and the sweep over runtime settings for what may be shipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optimizer.measure import capacity, offline, server, sweep
from optimizer.measure.process import Subject
from optimizer.measure.together import Found, threads
from optimizer.plan import Plan
from optimizer.produce import Producer
from optimizer.protocols import Feeds
from optimizer.specs import OfflineSpec, ServerSpec
from optimizer.values import Candidate, Setting


def measure(producer: Producer, candidates: Sequence[Candidate]) -> Found:
    """Offline and server measurements of the candidates, as far as the recipe asks for them.

    Raises the first failure when no candidate at all could be measured.
    """
    asked, found = producer.plan.recipe.measure, Found()
    if not candidates or not (asked.offline or asked.server):
        return found
    subjects = [_subject(producer, c) for c in candidates]
    samples = producer.samples(subjects[0].artifact.signature).feeds[0]
    if asked.offline:
        found.add(_offline(producer, subjects, samples, asked.offline))
    if asked.server:
        found.add(_server(producer, subjects, samples, asked.server))
    if len(found.failures) == len(subjects):
        raise next(iter(found.failures.values()))
    found.remarks.extend(f"{e.message}; the other candidates were measured" for e in found.failures.values())
    return found


def _subject(producer: Producer, candidate: Candidate) -> Subject:
    artifact = producer.done[str(candidate.artifact)].artifact
    return Subject(candidate.name, candidate.target, artifact, candidate.options)


def _offline(producer: Producer, subjects: Sequence[Subject], samples: Feeds, spec: OfflineSpec) -> Found:
    plan, console = producer.plan, producer.console
    callers = {s.name: spec.streams for s in subjects}
    layout = offline.Plan(
        spec.batch, spec.seconds, spec.restarts, _dims(plan, spec.dims), plan.recipe.seed, plan.machine.digest
    )
    with console.task(
        f"offline throughput of {len(subjects)} candidates, {spec.streams} streams", "restarts"
    ) as advance:
        found = offline.measure(subjects, callers, plan.baselines, samples, layout, advance)
    found.remarks.extend(_crowded(subjects, spec.streams, plan.machine.cores, "offline"))
    return found


def _server(producer: Producer, subjects: Sequence[Subject], samples: Feeds, spec: ServerSpec) -> Found:
    plan, console, found = producer.plan, producer.console, Found()
    load = server.Plan(
        spec.streams, spec.seconds, spec.restarts, _dims(plan, spec.dims), plan.recipe.seed, plan.machine.digest
    )
    if spec.rate is not None:
        with console.task(f"server latency of {len(subjects)} candidates at {spec.rate:g}/s", "restarts") as advance:
            found.add(server.under_rate(subjects, plan.baselines, samples, spec.rate, load, advance))
    left = [s for s in subjects if s.name not in found.failures]
    if spec.bound_ms is not None and left:
        goal = capacity.Goal(spec.percentile, spec.bound_ms, spec.probes)
        label = f"highest rate of {len(left)} candidates with p{spec.percentile} <= {spec.bound}"
        with console.task(label, "candidates") as advance:
            found.add(capacity.highest_rate(left, samples, goal, load, advance))
    found.remarks.extend(_crowded(subjects, spec.streams, plan.machine.cores, "server"))
    return found


def _dims(plan: Plan, own: dict[str, int] | None) -> dict[str, int]:
    """The free sizes of a scenario: its own, else those of latency."""
    latency = plan.recipe.measure.latency
    return own if own is not None else dict(latency.dims) if latency else {}


def _crowded(subjects: Iterable[Subject], callers: int, cores: int, scenario: str) -> list[str]:
    """A remark when the callers ask for more threads than there are cores: they then wait for each other."""
    most = max(threads(s) for s in subjects)
    if callers * most <= cores:
        return []
    return [
        f"measure.{scenario}.streams: {callers} callers with {most} thread(s) each on {cores} cores wait for each other"
    ]


def settings(producer: Producer, candidates: Sequence[Candidate]) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """The best runtime settings of each candidate for latency and throughput, and what to know of them."""
    plan, spec = producer.plan, producer.plan.recipe.measure.sweep
    if spec is None or not candidates:
        return (), ()
    cores = plan.machine.cores
    remarks = [text] if (text := sweep.left_out(spec, cores)) else []
    found: list[Setting] = []
    spec = spec.model_copy(update={"dims": _dims(plan, spec.dims)})
    for candidate in candidates:
        subject = _subject(producer, candidate)
        samples = producer.samples(subject.artifact.signature).feeds[0]
        with producer.console.task(f"{candidate.name}: sweep over runtime settings") as advance:
            swept = sweep.sweep(subject, samples, spec, cores, plan.recipe.seed, plan.machine.digest, advance)
        found += swept.settings
        remarks += swept.remarks
    return tuple(found), tuple(remarks)
