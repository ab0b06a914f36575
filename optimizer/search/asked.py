"""What a recipe asks to be searched: parsed once, and refused where no honest search could answer it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from optimizer import gates, registry, schema
from optimizer.bundle.runner import RUNNERS
from optimizer.errors import OptimizerError, unknown
from optimizer.recipe import LatencySpec, Recipe
from optimizer.specs import AutoSpec

STEP = "auto"
INSERTED = ("load", "export", "simplify")  # steps that the planner inserts where they are needed


@dataclass(frozen=True)
class Asked:
    """One search: what is to be best, on which targets, under which gates."""

    recipe: Recipe
    variant: str  # the variant that is searched for
    spec: AutoSpec
    plain: str  # the variant that it is compared with
    yardstick: str  # the candidate that every time is a ratio to, whatever the target
    targets: tuple[str, ...]
    latency: LatencySpec

    @property
    def batch(self) -> int:
        """The batch size at which the objective counts."""
        return self.spec.at.get("batch", min(self.latency.batch))

    @property
    def dims(self) -> dict[str, int]:
        """The other free sizes at which it counts."""
        return {**self.latency.dims, **{n: size for n, size in self.spec.at.items() if n != "batch"}}

    @property
    def goal(self) -> str:
        """What is searched for, in words."""
        sizes = "".join(f", {name} {size}" for name, size in self.dims.items())
        return f"{self.spec.objective} at batch {self.batch}{sizes}, on {' and '.join(self.targets)}"


def find(recipe: Recipe, budget: float | None = None) -> Asked | None:
    """The search of a recipe, None where it has none; `budget` (seconds) takes the place of the recipe's.

    Raises OptimizerError for a search that cannot be made.
    """
    variant = _variant(recipe)
    if variant is None:
        return None
    found = recipe.variants[variant]
    assert isinstance(found, list)
    where = f"recipe '{recipe.name}', variant '{variant}', step '{STEP}'"
    spec = schema.parse(AutoSpec, found[0].options, where, recipe.base)
    if budget is not None:
        spec = spec.model_copy(update={"budget": budget})
    latency = recipe.measure.latency
    if latency is None:
        raise OptimizerError(f"{where}: measure.latency is off, so no trial has a time", "leave 'latency: false' out")
    _refuse_blind(recipe, where)
    plain = (recipe.baseline or "").partition("@")[0] or _plain(recipe)
    if plain is None or plain == variant:
        raise OptimizerError(
            f"{where}: there is no baseline to compare with", "add variants: {fp32: []}, baseline: fp32"
        )
    targets = _targets(recipe, spec, where)
    able = [name for name in registry.names("passes") if name not in (STEP, *INSERTED)]
    _refuse_unknown(spec.algorithms or (), able, "step", f"{where}: algorithms")
    pinned = recipe.baseline if recipe.baseline and "@" in recipe.baseline else f"{plain}@{targets[0]}"
    return Asked(recipe, variant, spec, plain, pinned, targets, latency)


def _variant(recipe: Recipe) -> str | None:
    """The one variant that is a search."""
    found = []
    for name, variant in recipe.variants.items():
        where = f"recipe '{recipe.name}', variant '{name}'"
        if isinstance(variant, dict):
            if any(use.name == STEP for own in variant.values() for use in own.steps):
                raise OptimizerError(
                    f"{where}: '{STEP}' stands for all targets together",
                    f"write {name}: [{{{STEP}: {{targets: [{', '.join(variant)}]}}}}]",
                )
            continue
        uses = [use.name for use in variant]
        if STEP in uses and len(uses) > 1:
            raise OptimizerError(
                f"{where}: '{STEP}' chooses all steps itself, here is also {', '.join(u for u in uses if u != STEP)}",
                "make it the only step; its option 'algorithms' says which steps may be tried",
            )
        found += [name] if STEP in uses else []
    if len(found) > 1:
        raise OptimizerError(
            f"recipe '{recipe.name}': {' and '.join(found)} are searches; a recipe has one at most",
            "write a second recipe (extends: ...) for the other",
        )
    return found[0] if found else None


def _plain(recipe: Recipe) -> str | None:
    return next((name for name, variant in recipe.variants.items() if not variant), None)


def _refuse_blind(recipe: Recipe, where: str) -> None:
    """Trials need data of their own to be judged on, and a gate on accuracy to be judged by."""
    if "select" not in recipe.data:
        raise OptimizerError(
            f"{where}: trials are judged on data that takes no part in the verdict, and there is no such data",
            "add data: {select: <card/split or file>}, other examples than 'evaluate'",
        )
    named = [use.name.rpartition(":")[2] for use in recipe.measure.metrics]
    if not any(gates.parse(text).metric in named for text in recipe.gates):
        raise OptimizerError(
            f"{where}: no gate is about accuracy, so the fastest rubbish would win",
            f"add for example gates: ['{named[0] if named else 'top1'} drop <= 0.5pp']"
            + ("" if named else ", and measure: {metrics: [top1]}"),
        )


def _targets(recipe: Recipe, spec: AutoSpec, where: str) -> tuple[str, ...]:
    known = [use.name for use in recipe.targets]
    if spec.targets is not None:
        _refuse_unknown(spec.targets, known, "target", f"{where}: targets")
    found = tuple(name for name in known if (name in RUNNERS if spec.targets is None else name in spec.targets))
    if not found:
        raise OptimizerError(
            f"{where}: none of the targets {', '.join(known)} can be shipped",
            f"add one of {', '.join(RUNNERS)} to the recipe's targets, or name targets in {STEP}",
        )
    for name in found:
        plugin = registry.load("targets", name)
        given = next(use.options for use in recipe.targets if use.name == name)
        options = schema.parse(plugin.Options, given, f"recipe '{recipe.name}', target '{name}'", recipe.base)
        waits = registry.pending(plugin, options)
        if waits:
            raise OptimizerError(
                f"{where}: a search measures every trial, and what is built for {name} cannot run here: {waits}",
                f"search on other targets ({STEP}: {{targets: [...]}}), or where it runs",
            )
    return found


def _refuse_unknown(names: Collection[str], known: Collection[Any], kind: str, where: str) -> None:
    for name in names:
        if name not in known:
            raise unknown(kind, name, known, where)
