"""Recipe -> Plan: every step, its key and whether it is in the store, before anything runs.

A variant on a target is a chain of steps (see chain.py). Equal ingredients give equal keys, so targets and
variants share what they have in common.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from optimizer import dataset, fingerprint, gates, registry, runtimes, samples, schema
from optimizer import machine as machines
from optimizer.chain import RefusedError, chain
from optimizer.errors import OptimizerError, missing_extra, unknown
from optimizer.recipe import DataSpec, Recipe, Use
from optimizer.steps import KEY_LAYOUT, Step, extra_of
from optimizer.values import Candidate, Machine, Relation, on

READABLE = {"text": ("text",), "json": ("json", "number")}
"""Kind of label that a metric reads -> what `label_as` may be; for every other kind: number."""
EVALUATION = 3  # raise it when an evaluation keeps other things of each example


@dataclass(frozen=True)
class Evaluation:
    """The per-example results of one candidate on the evaluation data, stored like a step."""

    candidate: str
    role: str  # of the data: evaluate, or select
    artifact: str
    options: BaseModel
    ingredients: dict[str, Any]
    key: str


@dataclass(frozen=True)
class PlannedData:
    """One data set of the recipe, resolved and digested."""

    role: str
    name: str
    spec: DataSpec
    digest: str


@dataclass(frozen=True)
class Plan:
    """Steps in topological order, the candidates they lead to, and what is to be measured."""

    recipe: Recipe
    machine: Machine
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...]
    evaluations: tuple[Evaluation, ...]  # on the data that the gates are judged on
    selections: tuple[Evaluation, ...]  # on the data that candidates are chosen on, where the recipe has such
    data: Mapping[str, PlannedData]
    metrics: Mapping[str, tuple[Any, BaseModel]]
    gates: tuple[gates.Gate, ...]
    baseline: str | None  # variant, or variant@target
    baselines: Mapping[str, str | None]  # candidate -> the candidate that it is compared with

    def against(self, name: str) -> str | None:
        """The candidate that `name` is compared with, where that one is measured on this machine too."""
        other = self.baselines[name]
        return None if any(c.name == other and c.pending for c in self.candidates) else other

    def step(self, key: str) -> Step:
        """The step of a key."""
        return next(s for s in self.steps if s.key == key)

    def slot(self, step: Step) -> str:
        """The place of a step in this recipe: what it was made of last time is remembered under this name."""
        return f"{self.recipe.name}: {step.label}"

    def precision_slot(self, metric: str) -> str:
        """Where the width of a metric's paired intervals is remembered, for the next plan on the same data."""
        return f"{self.recipe.name}: {metric} on {self.data['evaluate'].digest}"

    def limits(self) -> dict[tuple[str, Relation], list[float]]:
        """(Metric, relation) -> the limits that the gates put on it."""
        found: dict[tuple[str, Relation], list[float]] = {}
        for gate in self.gates:
            if gate.metric in self.metrics:
                found.setdefault((gate.metric, gate.relation), []).append(gate.threshold)
        return found

    def tools(self) -> dict[str, str]:
        """Versions of every distribution that a step or a target uses."""
        found = {name: machines.version_of(name) or "absent" for name in ("optc", "numpy")}
        for step in self.steps:
            found.update(step.ingredients["tools"])
        return dict(sorted(found.items()))


def plan(recipe: Recipe, machine: Machine | None = None) -> Plan:
    """The plan of a recipe on this machine. Raises OptimizerError for every fault that can be seen before running."""
    machine = machine or machines.here()
    data: dict[str, PlannedData] = {role: _data(role, ref, recipe) for role, ref in recipe.data.items()}
    metrics = dict(_metric(use, recipe) for use in recipe.measure.metrics)
    if metrics and "evaluate" not in data:
        raise OptimizerError(f"the metrics {', '.join(metrics)} need data to evaluate on", "add data: {evaluate: ...}")
    _check_data(data, metrics)
    views = max((planned.spec.views for planned in data.values()), default=1)
    targets = runtimes.of(recipe, views, max(samples.TRACED, *samples.CHECKED))
    steps: dict[str, Step] = {}
    digests = {role: planned.digest for role, planned in data.items()}
    wanted = [(variant, name) for variant, name in targets if recipe.on(variant, name) is not None]
    candidates = [_candidate(recipe, digests, variant, name, targets, steps) for variant, name in wanted]
    _refuse_homeless(recipe, candidates)
    plain = next((name for name, uses in recipe.variants.items() if not uses), None)
    baseline = recipe.baseline or plain
    baselines = _baselines(baseline, candidates)

    def evaluations(role: str) -> tuple[Evaluation, ...]:
        built = [c for c in candidates if metrics and role in data and c.skipped is None and c.pending is None]
        return tuple(_evaluation(c, targets[c.variant, c.target], data[role], metrics, recipe, machine) for c in built)

    return Plan(
        recipe=recipe,
        machine=machine,
        steps=tuple(steps.values()),
        candidates=tuple(candidates),
        evaluations=evaluations("evaluate"),
        selections=evaluations("select"),
        data=data,
        metrics=metrics,
        gates=_gates(recipe, metrics, any(baselines.values())),
        baseline=baseline,
        baselines=baselines,
    )


def _candidate(
    recipe: Recipe,
    digests: Mapping[str, str],
    variant: str,
    name: str,
    targets: Mapping[tuple[str, str], tuple[Any, BaseModel]],
    steps: dict[str, Step],
) -> Candidate:
    """A variant on a target; its steps are added to `steps`, where equal keys are kept once."""
    plugin, options = targets[variant, name]
    pending = registry.pending(plugin, options)
    reason = pending.partition("; ")[0] if pending else None
    found = Candidate(variant, name, (), options.model_dump(mode="json"), pending=reason)
    try:
        made = chain(recipe, digests, variant, name, lambda *pair: targets[pair])
    except RefusedError as refusal:
        return replace(found, skipped=str(refusal), pending=None)
    for step in (*made.others, *made.steps):
        steps.setdefault(step.key, step)
    return replace(found, steps=tuple(s.key for s in made.steps), artifact=made.steps[-1].key)


def _data(role: str, reference: Any, recipe: Recipe) -> PlannedData:
    spec = dataset.resolve(reference, recipe.base)
    return PlannedData(role, getattr(reference, "ref", role), spec, dataset.digest(spec))


def _metric(use: Use, recipe: Recipe) -> tuple[str, tuple[Any, BaseModel]]:
    name, options = use.name, dict(use.options)
    if ":" in name:
        name, options = "python", {"entry": use.name, **options}
    plugin = registry.load("metrics", name)
    for tool in getattr(plugin, "TOOLS", ()):
        if machines.version_of(tool) is None:
            raise missing_extra(tool, extra_of(tool), f"the metric '{name}'")
    parsed = schema.parse(plugin.Options, options, f"recipe '{recipe.name}', metric '{use.name}'", recipe.base)
    return (str(options["entry"]).rpartition(":")[2] if name == "python" else name), (plugin, parsed)


def _check_data(data: Mapping[str, PlannedData], metrics: Mapping[str, tuple[Any, BaseModel]]) -> None:
    """Slices that are there, labels of a kind that the metrics read, a choice on other data than its confirmation."""
    for planned in data.values():
        known = dataset.columns(planned.spec) if planned.spec.slices else None
        missing = [name for name in planned.spec.slices if known is not None and name not in known]
        if missing:
            raise unknown("slice column", missing[0], known or (), f"data '{planned.name}'")
    for planned in (data[role] for role in ("evaluate", "select") if role in data):
        for name, (plugin, _) in metrics.items():
            kind = getattr(plugin, "LABELS", None)
            kept = planned.spec.label_as
            if kind is not None and planned.spec.label is None:
                raise OptimizerError(
                    f"the metric '{name}' compares with labels, the data '{planned.name}' has none",
                    "name the label's column in the data: label: COLUMN",
                )
            readable = READABLE.get(str(kind), ("number",))
            if kind is not None and kept not in readable:
                raise OptimizerError(
                    f"the metric '{name}' reads {kind} as labels, the data '{planned.name}' has label_as: {kept}",
                    f"set label_as: {readable[0]} in the data, or leave the metric out",
                )
    if "select" in data and not (metrics and "evaluate" in data):
        raise OptimizerError(
            "data has 'select', but no metric to choose by or no 'evaluate' to confirm on",
            "add measure: {metrics: [...]} and data: {evaluate: ...}, or leave 'select' out",
        )
    for role in ("evaluate", "select"):
        if "train" in data and role in data and _overlap(data["train"], data[role]):
            raise OptimizerError(
                f"the data 'train' and '{role}' share examples ({data['train'].name}, {data[role].name}), so that "
                "a model would be judged on what it has learnt",
                "train on another split (skip, take)",
            )
    if "select" in data and _overlap(data["select"], data["evaluate"]):
        raise OptimizerError(
            f"the data 'select' and 'evaluate' share examples ({data['select'].name}, {data['evaluate'].name})",
            "choose on one split and confirm on another (skip, take); leave 'select' out to use one for both",
        )


def _overlap(one: PlannedData, other: PlannedData) -> bool:
    """Whether two data sets surely share examples: the same, or rows of one source whose ranges meet."""
    a, b = one.spec, other.spec
    if a.source != b.source or a.shuffle or b.shuffle:
        return one.digest == other.digest
    ends = [math.inf if s.take is None else s.skip + s.take for s in (a, b)]
    return a.skip < ends[1] and b.skip < ends[0]


def _gates(recipe: Recipe, metrics: Mapping[str, Any], comparable: bool) -> tuple[gates.Gate, ...]:
    parsed = tuple(gates.parse(text, metrics) for text in recipe.gates)
    latency = recipe.measure.latency
    facts = {name: _fact(plugin, options) for name, (plugin, options) in metrics.items()}
    gates.check(parsed, facts, bool(latency), list(latency.batch) if latency else [], _loads(recipe))
    for gate in parsed:
        if gate.relation != "absolute" and not comparable:
            raise _incomparable(recipe, gate.text)
        _known(recipe, gate.text, gate.variant, gate.target)
    return parsed


def _incomparable(recipe: Recipe, gate: str) -> OptimizerError:
    if recipe.baseline is None:
        return OptimizerError(f"the gate '{gate}' compares with a baseline, the recipe has none", "add baseline: fp32")
    return OptimizerError(
        f"the gate '{gate}' compares with the baseline '{recipe.baseline}', and nothing else is built",
        "build another variant beside it, or take the gate out",
    )


def _loads(recipe: Recipe) -> dict[str, str | list[int]]:
    """Metric of a scenario that the recipe measures -> its batch sizes, or why it will have no value."""
    offline, server = recipe.measure.offline, recipe.measure.server
    found: dict[str, str | list[int]] = {"offline.throughput": list(offline.batch)} if offline else {}
    if server and server.rate is not None:
        from optimizer.measure import quantiles  # with numpy: most plans do without it
        from optimizer.measure import server as load

        layout = load.Plan(server.streams, server.seconds, server.restarts)
        requests = server.restarts * load.requests(server.rate, layout)[0]
        for percentile in load.PERCENTILES:
            few = f"{requests} requests ({server.rate:g}/s for {server.seconds:g} s) do not support p{percentile}"
            least = quantiles.support(percentile)
            found[f"server.p{percentile}"] = [1] if requests >= least else f"{few}, which needs {least}"
    if server and server.bound is not None:
        found["server.rate"] = [1]
    return found


def _fact(plugin: Any, options: BaseModel) -> gates.Fact:
    """Unit and better side of a metric: the user's own say so in their options."""
    unit, better = getattr(options, "unit", plugin.UNIT), getattr(options, "better", plugin.BETTER)
    return gates.Fact(unit, better, plugin.AGAINST == "baseline")


def _known(recipe: Recipe, text: str, variant: str | None, target: str | None) -> None:
    if variant and variant not in recipe.variants:
        raise unknown("variant", variant, recipe.variants, f"the gate '{text}'")
    if target and target not in [t.name for t in recipe.targets]:
        raise unknown("target", target, [t.name for t in recipe.targets], f"the gate '{text}'")


def _refuse_homeless(recipe: Recipe, candidates: list[Candidate]) -> None:
    for variant in recipe.variants:
        own = [c for c in candidates if c.variant == variant]
        if all(c.skipped for c in own):
            reasons = "; ".join(f"{c.target}: {c.skipped}" for c in own)
            raise OptimizerError(
                f"the variant '{variant}' fits none of the recipe's targets ({reasons})",
                "add a target, or change its steps",
            )


def _baselines(baseline: str | None, candidates: list[Candidate]) -> dict[str, str | None]:
    built = {c.name for c in candidates if c.skipped is None}
    found: dict[str, str | None] = {}
    for candidate in candidates:
        wanted = on(baseline, candidate.target) if baseline else None
        found[candidate.name] = wanted if wanted in built and wanted != candidate.name else None
    return found


def _evaluation(
    candidate: Candidate,
    target: tuple[Any, BaseModel],
    data: PlannedData,
    metrics: Mapping[str, tuple[Any, BaseModel]],
    recipe: Recipe,
    machine: Machine,
) -> Evaluation:
    plugin, options = target
    ingredients = {
        "layout": KEY_LAYOUT,
        "use": "evaluate",
        "version": EVALUATION,
        "source": candidate.artifact,
        "target": [candidate.target, plugin.VERSION, schema.ingredients(options)],
        "data": data.digest,
        "seed": recipe.seed,
        "batch": recipe.measure.batch,
        "metrics": {name: [m.__name__, schema.ingredients(o)] for name, (m, o) in metrics.items()},
        "slices": data.spec.slices,
        "tools": {name: machines.version_of(name) for name in (*plugin.TOOLS, *_metric_tools(metrics))},
        "isa": machines.isa_digest(machine),
    }
    if device := plugin.runs_on(options) if hasattr(plugin, "runs_on") else None:
        ingredients["device"] = device
    key = fingerprint.of_value(ingredients)
    return Evaluation(candidate.name, data.role, str(candidate.artifact), options, ingredients, key)


def _metric_tools(metrics: Mapping[str, tuple[Any, BaseModel]]) -> list[str]:
    return [tool for plugin, _ in metrics.values() for tool in getattr(plugin, "TOOLS", ())]
