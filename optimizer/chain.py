"""One variant on one target as a chain of steps, each with the ingredients that decide its key.

The chain inserts what a recipe need not say: `load` at the start, `export` (and `simplify`) where a step first
needs ONNX, and the target's own lowering where a step first needs the target's format, or at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from optimizer import fingerprint, registry, schema
from optimizer import machine as machines
from optimizer.errors import OptimizerError, unknown
from optimizer.recipe import Recipe, Use
from optimizer.scheme import QuantScheme
from optimizer.steps import Onward, Other, Step, ingredient_of, ingredients_of, roles, tools_of

Targets = Callable[[str, str], tuple[Any, BaseModel]]
"""(Variant, target) -> the target's plugin and its options for that variant."""


@dataclass(frozen=True)
class Chain:
    """The steps of a variant on a target, and before them the steps that lead to other artifacts that they read."""

    others: tuple[Step, ...]
    steps: tuple[Step, ...]


class RefusedError(Exception):
    """This variant cannot exist on this target; the text says why."""


def chain(recipe: Recipe, digests: Mapping[str, str], variant: str, name: str, targets: Targets) -> Chain:
    """The steps of `variant` on the target `name`; `digests` holds the digest of each data role.

    Raises RefusedError when the pair cannot exist, OptimizerError for a mistake in the recipe.
    """
    found = _begun(recipe, digests, variant, name, targets, ())
    for use in found.uses:
        found.add(use)
    found.finish()
    return Chain(tuple(found.others), tuple(found.steps))


def _begun(
    recipe: Recipe, digests: Mapping[str, str], variant: str, name: str, targets: Targets, trail: tuple[str, ...]
) -> _Chain:
    """A chain with `load` as its only step; `trail` names the variants whose chains wait for this one."""
    own = recipe.on(variant, name)
    if own is None:
        raise RefusedError(f"the variant is for {_listed(tuple(recipe.variants[variant]))} alone")  # type: ignore[arg-type]  # names
    found = _Chain(recipe, digests, f"{variant}@{name}", targets, (*trail, variant))
    found.uses = own.steps
    found.load()
    return found


class _Chain:
    """One variant on one target, step by step."""

    def __init__(
        self, recipe: Recipe, digests: Mapping[str, str], label: str, targets: Targets, trail: tuple[str, ...]
    ) -> None:
        self.recipe, self.digests, self.label = recipe, digests, label
        self.targets, self.trail = targets, trail
        self.target, self.target_options = targets(*_pair(label))
        self.uses: list[Use] = []
        self.steps: list[Step] = []
        self.others: list[Step] = []
        self.lowered = False

    @property
    def format(self) -> str:
        return self.steps[-1].format

    def load(self) -> None:
        plugin = registry.load("passes", "load")
        spec = self.recipe.model
        self._append("load", plugin, spec, plugin.produces(spec))

    def add(self, use: Use) -> None:
        if use.name == "auto":
            variant = self.label.partition("@")[0]
            found = Path("build", self.recipe.name, "best.yaml")
            raise OptimizerError(
                f"recipe '{self.recipe.name}': the variant '{variant}' is a search, which a build makes",
                f"{found} holds what one has found: name it in place of the recipe"
                if found.is_file()
                else f"optc build searches, and writes {found} with what it found",
            )
        plugin = registry.load("passes", use.name)
        recipe, scheme = self.recipe, self._scheme(plugin)
        where = f"recipe '{recipe.name}', variant '{self.label.partition('@')[0]}', step '{use.name}'"
        options = schema.parse(plugin.Options, use.options, where, recipe.base)
        reason = plugin.refuse(options, scheme) if plugin.SCHEMED and hasattr(plugin, "refuse") else None
        if reason:
            raise RefusedError(reason)
        if plugin.SCHEMED and hasattr(plugin, "refuse_after"):
            reason = plugin.refuse_after([step.use for step in self.steps], scheme)
            if reason:
                raise RefusedError(reason)
        if hasattr(plugin, "misplaced"):
            self._refuse_order(plugin.misplaced([step.use for step in self.steps]), where)
        if getattr(plugin, "EAGER", False):
            self._refuse_compiled(use.name)
        if use.name not in ("load", "export"):
            wanted = scheme.format if plugin.SCHEMED and scheme.format in plugin.CONSUMES else None
            self._reach(plugin.CONSUMES, wanted, use.name)
        elif self.format not in plugin.CONSUMES:
            raise RefusedError(self._too_late(use.name, plugin.CONSUMES))
        named = plugin.artifacts(options) if hasattr(plugin, "artifacts") else ()
        others = {name: self._other(name, where) for name in named}
        through = plugin.measures(options) if hasattr(plugin, "measures") else None
        onward = None if through is None else self._onward(through, plugin.PRODUCES or self.format)
        self._append(use.name, plugin, options, plugin.PRODUCES or self.format, others, onward)

    def _onward(self, through: Sequence[Use], produced: str) -> Onward:
        """The way of a step's attempts to the target; walked once now, so that what cannot be is refused here."""
        waits = registry.pending(self.target, self.target_options)
        if waits:
            raise RefusedError(f"its attempts are timed on the target, which cannot run here: {waits}")

        before, lowered = self.steps[-1], self.lowered  # as they are now: the chain goes on, its attempts start here

        def steps(key: str) -> list[Step]:
            found = _Chain(self.recipe, self.digests, self.label, self.targets, self.trail)
            found.lowered = lowered
            found.steps = [replace(before, key=key, format=produced)]
            for use in through:
                found.add(use)
            found.finish()
            return found.steps[1:]

        steps("")
        return Onward(self.target_name, self.target_options, steps)

    def _refuse_order(self, misplaced: tuple[str, str] | None, where: str) -> None:
        """A step that says itself what it cannot follow, on any target."""
        if misplaced:
            reason, instead = misplaced
            raise OptimizerError(f"{where}: {reason}", instead)

    def _refuse_compiled(self, name: str) -> None:
        """A step that changes the module itself needs its Python code."""
        file = self.recipe.model.file
        if file is not None:
            raise OptimizerError(
                f"{name} changes a PyTorch module in place, {file.name} is a finished program",
                "give the module's code: model: {entry: file.py:callable, weights: ..., inputs: ...}",
            )

    def _other(self, name: str, where: str) -> Other:
        """The artifact that a step knows as `name`: `original`, VARIANT (before its export), or VARIANT@TARGET."""
        recipe = self.recipe
        variant, _, target = name.partition("@")
        if name == "original":
            return Other(self.steps[0].key, *_opener(self.steps[0].format))
        known = [f"{v}{t}" for v in recipe.variants for t in ("", *(f"@{use.name}" for use in recipe.targets))]
        if name not in known:
            others = [found for found in known if found.partition("@")[0] not in self.trail]
            raise unknown("artifact", name, ["original", *others], where)
        if variant in self.trail:
            circle = " -> ".join([*self.trail[self.trail.index(variant) :], variant])
            raise OptimizerError(f"{where}: '{name}' waits for this very step ({circle})", "name another artifact")
        try:
            found = _begun(recipe, self.digests, variant, target or self.target_name, self.targets, self.trail)
            for use in found.uses if target else found.trained():
                found.add(use)
            if target:
                found.finish()
        except RefusedError as refusal:
            raise RefusedError(f"'{name}' cannot be had: {refusal}") from None
        self.others += [*found.others, *found.steps]
        opened = (found.target, found.target_options) if target else _opener(found.format)
        return Other(found.steps[-1].key, *opened)

    def _scheme(self, plugin: Any) -> QuantScheme:
        """How a step is to quantize: on the target's own format, or in ONNX where the step knows no other."""
        target = self.target
        own: QuantScheme = target.schemed(self.target_options) if hasattr(target, "schemed") else target.SCHEME
        inside: QuantScheme = getattr(self.target, "QDQ", own)
        known = (*plugin.CONSUMES, plugin.PRODUCES)
        return inside if own.format not in known and inside.format in known else own

    def trained(self) -> list[Use]:
        """The steps up to the first that needs the model exported: those that work on the PyTorch module."""

        def works(use: Use) -> bool:
            plugin = registry.load("passes", use.name)
            return "torch" in plugin.CONSUMES and plugin.PRODUCES in ("torch", None)

        return list(itertools.takewhile(works, self.uses))

    def finish(self) -> None:
        if not self.lowered:
            self._reach(self.target.CONSUMES, None, f"target {self.target_name}")
            self._lower()
        if self.format != self.target.PRODUCES:
            raise RefusedError(f"the target opens {self.target.PRODUCES}, the variant ends in {self.format}")

    @property
    def target_name(self) -> str:
        return _pair(self.label)[1]

    def _reach(self, accepted: tuple[str, ...], wanted: str | None, who: str) -> None:
        """Insert export or lowering until the format is the wanted one, or one that is accepted."""
        if self.format == "torch" and self.format not in accepted and wanted != "torch":
            self._export(who)
        if wanted and self.format != wanted and self.target.PRODUCES == wanted and not self.lowered:
            self._lower()
        if self.format not in accepted:
            raise RefusedError(self._too_late(who, accepted))

    def _too_late(self, who: str, accepted: tuple[str, ...]) -> str:
        """Why a step cannot stand here, and where it could."""
        written = {use.name for use in self.uses}
        culprit = next((s.use for s in self.steps if s.use in written and s.format not in accepted), None)
        could = any(step.format in accepted for step in self.steps)
        place = f"; put it before '{culprit}'" if culprit and could else ""
        return f"{who} takes {_listed(accepted)}, the model is {self.format} by then{place}"

    def _export(self, who: str) -> None:
        if self.target.CONSUMES == ("torch",):
            raise RefusedError(f"{who} needs an exported model, the target runs the PyTorch module itself")
        recipe = self.recipe
        plugin = registry.load("passes", "export")
        where = f"recipe '{recipe.name}', export"
        self._append("export", plugin, schema.parse(plugin.Options, recipe.export, where, recipe.base), "onnx")
        if recipe.simplify:
            plugin = registry.load("passes", "simplify")
            self._append("simplify", plugin, plugin.Options(), "onnx")

    def _lower(self) -> None:
        if self.format not in self.target.CONSUMES:
            raise RefusedError(f"the target takes {_listed(self.target.CONSUMES)}, the model is {self.format} by then")
        self._append(self.target_name, self.target, self.target_options, self.target.PRODUCES)
        self.lowered = True

    def _append(
        self,
        use: str,
        plugin: Any,
        options: BaseModel,
        produces: str,
        others: Mapping[str, Other] | None = None,
        onward: Onward | None = None,
    ) -> None:
        scheme = self._scheme(plugin) if plugin.SCHEMED else None
        tools = tools_of(use, plugin, options, scheme)
        reads = roles(plugin, options, self.digests)
        missing = [role for role in reads if role not in self.digests]
        if missing:
            raise OptimizerError(
                f"{self.label}: the step '{use}' needs the data role '{missing[0]}'; the recipe has "
                f"{' and '.join(self.digests) or 'no data'}",
                f"add data: {{{missing[0]}: <card/split or file>}}; random data is never used instead",
            )
        source = self.steps[-1].key if self.steps else None
        data = {role: self.digests[role] for role in reads}
        ingredients = ingredients_of(use, plugin, options, source, scheme, tools, data, self.recipe.seed)
        if others:
            ingredients["artifacts"] = {name: ingredient_of(other) for name, other in others.items()}
        if onward:
            ingredients["measured"] = self._measured(onward)
        key = fingerprint.of_value(ingredients)
        label = f"{self.label}: {use}"
        self.steps.append(
            Step(use, plugin, options, source, produces, scheme, ingredients, key, label, others or {}, onward)
        )

    def _measured(self, onward: Onward) -> dict[str, Any]:
        """What times depend on beside the artifact: machine, runtime, the setting, and the way there."""
        latency = self.recipe.measure.latency
        return {
            "machine": machines.here().digest,
            "target": [onward.target, self.target.VERSION, schema.ingredients(onward.options)],
            "at": [min(latency.batch), latency.threads, latency.dims] if latency else None,
            "through": [[step.use, step.key] for step in onward.steps("")],
        }


def _pair(label: str) -> tuple[str, str]:
    """Variant and target of `variant@target`."""
    variant, _, target = label.partition("@")
    return variant, target


def _opener(artifact_format: str) -> tuple[Any, BaseModel]:
    target = registry.opener(artifact_format)
    return target, target.Options()


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(names)
