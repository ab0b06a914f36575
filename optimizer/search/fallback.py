"""A point that breaks the gates, with the layers left in float whose rounding harms accuracy most for what they cost.

Layers are chosen by the machinery of `optc explain`: screened alone through switches, then put back greedily, the most
noise taken away per millisecond that they take longer in float, until the gates hold on the select data with the
interval that the evaluation data will give. The milliseconds come from the runtime's own profiler, all layers quantized
and all in float; where the objective is size or memory, a layer costs what its weights take more. The candidate's own
Q/DQ pairs are grafted for this, nothing is quantized again; a step that leaves no such pairs is done again with other
layers in `keep`, and prices are then counted. The point that comes out is built and measured like any other.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from optimizer.errors import OptimizerError
from optimizer.explain import prices, search, slow, wrong
from optimizer.explain.clock import Clock
from optimizer.explain.keep import STEP, selectors
from optimizer.explain.prices import Prices
from optimizer.explain.proxy import Proxy
from optimizer.explain.subject import Part, Subject, one
from optimizer.explain.task import Task
from optimizer.explain.variants import Variants
from optimizer.plan import Plan
from optimizer.produce import Producer
from optimizer.protocols import Feeds
from optimizer.search.asked import Asked
from optimizer.search.points import Point
from optimizer.search.rebuilt import RebuiltVariants
from optimizer.search.runner import Restored
from optimizer.search.standing import ORDER, Stand
from optimizer.usercode import attempt
from optimizer.values import Artifact, Candidate, Measurement

SAMPLES = 32  # that layers are screened on
EXAMPLES = 1000  # of the select data that a choice is judged on while it grows; its trial is judged on all
SCREEN = 0.4  # of the time, for screening
TOGETHER = 4  # samples per inference
PROFILE, PROFILE_MOST = 0.05, 10.0  # of the time, and seconds, for each of the two profiles
NAMED = 3  # layers that a reason names

Standing = Callable[[Sequence[Measurement]], Stand]


@dataclasses.dataclass(frozen=True)
class Broken:
    """A candidate that breaks the gates, and what it is made of and compared with."""

    asked: Asked
    point: Point
    plan: Plan
    candidate: Candidate
    artifact: Artifact
    baseline: Artifact  # of the same target

    @property
    def place(self) -> int | None:
        """Which of its steps can leave layers in float."""
        steps = [self.plan.step(key) for key in self.candidate.steps]
        able = {step.use for step in steps if "keep" in type(step.options).model_fields}
        return next((place for place, (name, _) in enumerate(self.point.steps) if name in able), None)


def harmful(broken: Broken, producer: Producer, seconds: float, standing: Standing) -> list[Restored]:
    """The point with fewer layers quantized; none where no step can leave any, or none is to blame.

    Raises OptimizerError where the layers cannot be told apart.
    """
    place = broken.place
    if place is None or broken.artifact.format not in ("onnx", "openvino"):
        return []
    return attempt(broken.point.name, lambda: _harmful(broken, place, producer, seconds, standing))


def _harmful(broken: Broken, place: int, producer: Producer, seconds: float, standing: Standing) -> list[Restored]:
    subject, clock = _subject(broken, producer), Clock.now(seconds)
    role = "calibrate" if "calibrate" in broken.plan.data else "select"
    samples = list(wrong.given(Part(producer.dataset(role), 0, SAMPLES), subject.signature, TOGETHER))
    variants = _variants(broken, place, producer, subject, samples[0])
    if not variants.layers:
        return []
    proxy = Proxy(variants, samples)
    if not proxy.error(frozenset()):
        return []
    costs = _prices(broken.asked, subject, variants, min(PROFILE * seconds, PROFILE_MOST))
    screened = search.screen(variants.layers, proxy, lambda: clock.before(SCREEN), lambda done, total: None)
    judge = _Judge(_tasks(subject, broken.plan), variants, standing)
    given = (variants.layers, screened.errors, proxy, judge.content)
    found = search.greedy(*given, lambda: clock.before(1.0), costs)
    if not found.kept or len(found.kept) == len(variants.layers):
        return []
    name, options = broken.point.steps[place]
    own = selectors(found.kept, variants.layers)
    keep = list(dict.fromkeys([*options.get("keep", ()), *own]))
    steps = (*broken.point.steps[:place], (name, {**options, "keep": keep}), *broken.point.steps[place + 1 :])
    more = f" and {len(own) - NAMED} more" if len(own) > NAMED else ""
    before, after = proxy.error(frozenset()), proxy.error(found.kept)
    gone = 1 - after / before if math.isfinite(before) else float(math.isfinite(after))
    why = (
        f"{len(found.kept)} of {len(variants.layers)} layers back in float "
        f"({', '.join(own[:NAMED])}{more}), which takes {100 * gone:.0f} % of the noise away for "
        f"{costs.told(found.kept)}"
    )
    return [Restored(dataclasses.replace(broken.point, steps=steps), why)]


def _variants(broken: Broken, place: int, producer: Producer, subject: Subject, feeds: Feeds) -> Variants:
    """By grafting Q/DQ pairs; in ONNX, where another step than quantize.static made it, by doing that step again."""
    steps = [broken.plan.step(key) for key in broken.candidate.steps]
    name = broken.point.steps[place][0]
    made = next(i for i, step in enumerate(steps) if step.use == name)
    if name == STEP or broken.artifact.format != "onnx" or any(s.use != broken.point.target for s in steps[made + 1 :]):
        return wrong.opened(subject, feeds, subject.machine.cores)
    given = (steps[made], broken.artifact, producer.following(broken.plan))
    return RebuiltVariants(*given, broken.point.target, subject.options, feeds)


def _prices(asked: Asked, subject: Subject, variants: Variants, seconds: float) -> Prices:
    """What layers cost in float by the objective; counted where the profiler cannot say it."""
    if asked.spec.objective in ("size", "memory"):
        return prices.stored(variants.layers)
    if isinstance(variants, RebuiltVariants):  # its kernels have names that are in no float graph
        return prices.counted(variants.layers)
    assert subject.data is not None
    feeds = one(subject.data, subject.signature, asked.batch, asked.dims)
    every = frozenset(layer.name for layer in variants.layers)
    try:
        found = []
        for kept in (frozenset[str](), every):
            with tempfile.TemporaryDirectory(prefix="optc-") as folder:
                variant = dataclasses.replace(subject, artifact=variants.written(kept, Path(folder)))
                found.append(slow.kernels(variant, feeds, seconds))
    except OptimizerError:
        return prices.counted(variants.layers)
    return prices.measured(variants.layers, *found)


@dataclasses.dataclass(frozen=True)
class _Judge:
    """Says of a choice of layers whether the gates hold with it, by every metric that a gate is about."""

    tasks: tuple[Task, ...]
    variants: Variants
    standing: Standing

    def content(self, kept: frozenset[str]) -> bool:
        every = frozenset(layer.name for layer in self.variants.layers)
        found = [
            task.measurement(task.name, task.rows(self.variants, kept), task.rows(self.variants, every))
            for task in self.tasks
        ]
        return self.standing(found).level in ORDER[:2]


def _tasks(subject: Subject, plan: Plan) -> tuple[Task, ...]:
    assert subject.data is not None
    part = Part(subject.data, 0, EXAMPLES)
    named = dict.fromkeys(gate.metric for gate in plan.gates if gate.metric in plan.metrics)
    return tuple(
        Task(
            name, subject.metrics[name], part, subject.batch, str(subject.against), subject.machine.digest, subject.seed
        )
        for name in named
    )


def _subject(broken: Broken, producer: Producer) -> Subject:
    plan, candidate = broken.plan, broken.candidate
    return Subject(
        name=broken.point.name,
        target=candidate.target,
        artifact=broken.artifact,
        options=candidate.options,
        machine=plan.machine,
        against=plan.baselines[candidate.name],
        baseline=broken.baseline,
        data=producer.dataset("select"),
        metrics=plan.metrics,
        batch=plan.recipe.measure.batch,
        seed=plan.recipe.seed,
        dims=plan.recipe.measure.latency.dims if plan.recipe.measure.latency else {},
    )
