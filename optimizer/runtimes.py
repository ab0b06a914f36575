"""The targets of a recipe as plugins with their options, fitted to what the recipe will ask of them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from optimizer import registry, schema
from optimizer.errors import OptimizerError, unknown
from optimizer.recipe import Recipe, Use
from optimizer.specs import known_dims
from optimizer.values import Signature, TensorSpec

Sizes = tuple[list[int], dict[str, tuple[int, int, int]], dict[str, list[int]]]
"""Batch sizes; least, usual and largest size of the other free dimensions; at which sizes those are timed."""


def of(recipe: Recipe, views: int, checked: int) -> dict[tuple[str, str], tuple[Any, BaseModel]]:
    """(Variant, target) -> plugin and options: those of the recipe, and over them those of the variant.

    `views`: samples that an example of the data has; `checked`: the largest batch that a step is checked with. Raises
    OptimizerError for a target that does not exist, cannot be used here, or is given options that it does not have.
    """
    _check(recipe)
    if stated := recipe.model.inputs:
        check_dims(recipe, Signature(tuple(TensorSpec.parse(name, text) for name, text in stated.items()), ()))
    sizes = _sizes(recipe, views, checked)
    common = {use.name: _target(use, recipe, sizes) for use in recipe.targets}
    found = {}
    for variant in recipe.variants:
        for use in recipe.targets:
            own = recipe.on(variant, use.name)
            changed = own and own.options and Use(name=use.name, options={**use.options, **own.options})
            found[variant, use.name] = _target(changed, recipe, sizes) if changed else common[use.name]
    return found


def named_dims(recipe: Recipe) -> dict[str, dict[str, int]]:
    """Scenario -> the sizes that the recipe gives to free dimensions there, where it gives any."""
    asked = recipe.measure
    specs = {"latency": asked.latency, "offline": asked.offline, "server": asked.server, "sweep": asked.sweep}
    return {f"measure.{name}": spec.dims for name, spec in specs.items() if spec and spec.dims}


def check_dims(recipe: Recipe, signature: Signature) -> None:
    """Raise OptimizerError where a scenario of the recipe sizes a dimension that the model does not have."""
    for where, dims in named_dims(recipe).items():
        known_dims(signature, dims, where)


def _check(recipe: Recipe) -> None:
    """Variants with steps per target name targets of the recipe."""
    known = [use.name for use in recipe.targets]
    for variant, found in recipe.variants.items():
        for name in found if isinstance(found, dict) else ():
            if name in registry.names("passes"):
                raise OptimizerError(
                    f"recipe '{recipe.name}', variant '{variant}': '{name}' is a step, a mapping names targets",
                    f"write the steps as a list: {variant}: [{name}]",
                )
            if name not in known:
                raise unknown("target", name, known, f"recipe '{recipe.name}', variant '{variant}'")


def _target(use: Use, recipe: Recipe, sizes: Sizes) -> tuple[Any, BaseModel]:
    """The target's plugin and options; threads come from the latency setting where the recipe is silent."""
    plugin = registry.load("targets", use.name)
    reason = plugin.probe()
    if reason:
        raise OptimizerError(f"the target '{use.name}' is not usable here: {reason}", "optc doctor shows all targets")
    options = schema.parse(plugin.Options, use.options, f"recipe '{recipe.name}', target '{use.name}'", recipe.base)
    if getattr(options, "threads", 1) is None:
        latency = recipe.measure.latency
        options = options.model_copy(update={"threads": latency.threads if latency else 1})
    if hasattr(options, "fitted"):
        options = options.fitted(*sizes)
    return plugin, options


def _sizes(recipe: Recipe, views: int, checked: int) -> Sizes:
    """What a build will ask for: batch sizes, and the other dimensions as they are timed, within the model's."""
    measure = recipe.measure
    batches = {size for spec in (measure.latency, measure.offline, measure.sweep) if spec for size in spec.batch}
    if measure.metrics:
        batches.add(measure.batch * views)
    if max(batches, default=0) < checked:
        batches.add(checked)
    asked: dict[str, list[int]] = {}
    for spec in (measure.latency, measure.offline, measure.server):
        for name, size in ((spec.dims if spec else None) or {}).items():
            asked.setdefault(name, []).append(size)
    dims = {}
    for name in dict.fromkeys((*asked, *recipe.model.dims)):
        low, high = recipe.model.dims.get(name, (1, 1))
        found = asked.get(name, [high])
        dims[name] = (min(low, *found), found[0], max(high, *found))
    return sorted(batches), dims, asked
