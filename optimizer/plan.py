"""Recipe -> Plan: every step, its key and whether it is in the store, before anything runs.

A variant on a target is a chain of steps (see chain.py). Equal ingredients give equal keys, so targets and
variants share what they have in common.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from optimizer import dataset, fingerprint, gates, registry, schema
from optimizer import machine as machines
from optimizer.chain import KEY_LAYOUT, RefusedError, Step, chain
from optimizer.errors import OptimizerError, unknown
from optimizer.measure import quantiles
from optimizer.measure import server as load
from optimizer.recipe import DataSpec, Recipe, Use
from optimizer.values import Candidate, Machine


@dataclass(frozen=True)
class Evaluation:
    """The per-example results of one candidate on the evaluation data, stored like a step."""

    candidate: str
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
    evaluations: tuple[Evaluation, ...]
    data: Mapping[str, PlannedData]
    metrics: Mapping[str, tuple[Any, BaseModel]]
    gates: tuple[gates.Gate, ...]
    baseline: str | None  # variant, or variant@target
    baselines: Mapping[str, str | None]  # candidate -> the candidate that it is compared with

    def step(self, key: str) -> Step:
        """The step of a key."""
        return next(s for s in self.steps if s.key == key)

    def slot(self, step: Step) -> str:
        """The place of a step in this recipe: what it was made of last time is remembered under this name."""
        return f"{self.recipe.name}: {step.label}"

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
    targets = {use.name: _target(use, recipe) for use in recipe.targets}
    steps: dict[str, Step] = {}
    digests = {role: planned.digest for role, planned in data.items()}
    candidates = [
        _candidate(recipe, digests, variant, name, targets[name], steps)
        for variant in recipe.variants
        for name in targets
    ]
    _refuse_homeless(recipe, candidates)
    plain = next((name for name, uses in recipe.variants.items() if not uses), None)
    baseline = recipe.baseline or plain
    baselines = _baselines(baseline, candidates)
    return Plan(
        recipe=recipe,
        machine=machine,
        steps=tuple(steps.values()),
        candidates=tuple(candidates),
        evaluations=tuple(
            _evaluation(c, targets[c.target], data["evaluate"], metrics, recipe, machine)
            for c in candidates
            if metrics and c.skipped is None
        ),
        data=data,
        metrics=metrics,
        gates=_gates(recipe, metrics, any(baselines.values())),
        baseline=baseline,
        baselines=baselines,
    )


def _target(use: Use, recipe: Recipe) -> tuple[Any, BaseModel]:
    """The target's plugin and options; threads come from the latency setting where the recipe is silent."""
    plugin = registry.load("targets", use.name)
    reason = plugin.probe()
    if reason:
        raise OptimizerError(f"the target '{use.name}' is not usable here: {reason}", "optc doctor shows all targets")
    options = schema.parse(plugin.Options, use.options, f"recipe '{recipe.name}', target '{use.name}'", recipe.base)
    if getattr(options, "threads", 1) is None:
        latency = recipe.measure.latency
        options = options.model_copy(update={"threads": latency.threads if latency else 1})
    return plugin, options


def _candidate(
    recipe: Recipe,
    digests: Mapping[str, str],
    variant: str,
    name: str,
    target: tuple[Any, BaseModel],
    steps: dict[str, Step],
) -> Candidate:
    """A variant on a target; its steps are added to `steps`, where equal keys are kept once."""
    found = Candidate(variant, name, (), target[1].model_dump(mode="json"))
    try:
        own = chain(recipe, digests, variant, name, *target)
    except RefusedError as refusal:
        return replace(found, skipped=str(refusal))
    for step in own:
        steps.setdefault(step.key, step)
    return replace(found, steps=tuple(s.key for s in own), artifact=own[-1].key)


def _data(role: str, reference: Any, recipe: Recipe) -> PlannedData:
    spec = dataset.resolve(reference, recipe.base)
    return PlannedData(role, getattr(reference, "ref", role), spec, dataset.digest(spec))


def _metric(use: Use, recipe: Recipe) -> tuple[str, tuple[Any, BaseModel]]:
    name, options = use.name, dict(use.options)
    if ":" in name:
        name, options = "python", {"entry": use.name, **options}
    plugin = registry.load("metrics", name)
    parsed = schema.parse(plugin.Options, options, f"recipe '{recipe.name}', metric '{use.name}'", recipe.base)
    return (str(options["entry"]).rpartition(":")[2] if name == "python" else name), (plugin, parsed)


def _gates(recipe: Recipe, metrics: Mapping[str, Any], comparable: bool) -> tuple[gates.Gate, ...]:
    parsed = tuple(gates.parse(text) for text in recipe.gates)
    latency = recipe.measure.latency
    facts = {name: _fact(plugin, options) for name, (plugin, options) in metrics.items()}
    gates.check(parsed, facts, bool(latency), list(latency.batch) if latency else [], _loads(recipe))
    for gate in parsed:
        if gate.relation != "absolute" and not comparable:
            raise OptimizerError(
                f"the gate '{gate.text}' compares with a baseline, the recipe has none", "add baseline: fp32"
            )
        _known(recipe, gate.text, gate.variant, gate.target)
    return parsed


def _loads(recipe: Recipe) -> dict[str, str | list[int]]:
    """Metric of a scenario that the recipe measures -> its batch sizes, or why it will have no value."""
    offline, server = recipe.measure.offline, recipe.measure.server
    found: dict[str, str | list[int]] = {"offline.throughput": list(offline.batch)} if offline else {}
    if server and server.rate is not None:
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
        wanted = baseline if baseline and "@" in baseline else f"{baseline}@{candidate.target}"
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
        "source": candidate.artifact,
        "target": [candidate.target, plugin.VERSION, schema.ingredients(options)],
        "data": data.digest,
        "seed": recipe.seed,
        "batch": recipe.measure.batch,
        "metrics": {name: [m.__name__, schema.ingredients(o)] for name, (m, o) in metrics.items()},
        "tools": {name: machines.version_of(name) for name in plugin.TOOLS},
        "isa": machines.isa_digest(machine),
    }
    key = fingerprint.of_value(ingredients)
    return Evaluation(candidate.name, str(candidate.artifact), options, ingredients, key)
