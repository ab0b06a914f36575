"""One variant on one target as a chain of steps, each with the ingredients that decide its key.

The chain inserts what a recipe need not say: `load` at the start, `export` (and `simplify`) where a step first
needs ONNX, and the target's own lowering where a step first needs the target's format, or at the end.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from optimizer import fingerprint, registry, schema
from optimizer import machine as machines
from optimizer.errors import OptimizerError, missing_extra
from optimizer.recipe import Recipe, Use
from optimizer.scheme import QuantScheme

KEY_LAYOUT = 1


@dataclass(frozen=True)
class Step:
    """One function from an artifact to an artifact, with everything that decides its result."""

    use: str
    plugin: Any
    options: BaseModel
    source: str | None  # key of the step before
    format: str  # artifact format that it produces
    scheme: QuantScheme | None
    ingredients: dict[str, Any]
    key: str
    label: str  # "int8@openvino: quantize.static", the first place that wants it


class RefusedError(Exception):
    """This variant cannot exist on this target; the text says why."""


def chain(
    recipe: Recipe, digests: Mapping[str, str], variant: str, name: str, target: Any, options: BaseModel
) -> list[Step]:
    """The steps of `variant` on the target `name`; `digests` holds the digest of each data role.

    Raises RefusedError when the pair cannot exist, OptimizerError for a mistake in the recipe.
    """
    own = recipe.on(variant, name)
    if own is None:
        raise RefusedError(f"the variant is for {_listed(tuple(recipe.variants[variant]))} alone")  # type: ignore[arg-type]  # names
    found = _Chain(recipe, digests, f"{variant}@{name}", target, options)
    found.load()
    for use in own.steps:
        found.add(use)
    found.finish()
    return found.steps


class _Chain:
    """One variant on one target, step by step."""

    def __init__(
        self, recipe: Recipe, digests: Mapping[str, str], label: str, target: Any, target_options: BaseModel
    ) -> None:
        self.recipe, self.digests, self.label = recipe, digests, label
        self.target, self.target_options = target, target_options
        self.steps: list[Step] = []
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
            raise OptimizerError(
                f"recipe '{self.recipe.name}': the variant '{variant}' is a search, which is still to be made",
                f"optc build searches, and writes build/{self.recipe.name}/best.yaml with what it found",
            )
        plugin = registry.load("passes", use.name)
        recipe, scheme = self.recipe, self.target.SCHEME
        where = f"recipe '{recipe.name}', variant '{self.label.partition('@')[0]}', step '{use.name}'"
        options = schema.parse(plugin.Options, use.options, where, recipe.base)
        reason = plugin.refuse(options, scheme) if plugin.SCHEMED and hasattr(plugin, "refuse") else None
        if reason:
            raise RefusedError(reason)
        if use.name not in ("load", "export"):
            self._reach(plugin.CONSUMES, scheme.format if plugin.SCHEMED else None, use.name)
        elif self.format not in plugin.CONSUMES:
            raise RefusedError(f"{use.name} takes {_listed(plugin.CONSUMES)}, the model is {self.format} by then")
        self._append(use.name, plugin, options, plugin.PRODUCES or self.format)

    def finish(self) -> None:
        if not self.lowered:
            self._reach(self.target.CONSUMES, None, f"target {self.target_name}")
            self._lower()
        if self.format != self.target.PRODUCES:
            raise RefusedError(f"the target opens {self.target.PRODUCES}, the variant ends in {self.format}")

    @property
    def target_name(self) -> str:
        return self.label.partition("@")[2]

    def _reach(self, accepted: tuple[str, ...], wanted: str | None, who: str) -> None:
        """Insert export or lowering until the format is the wanted one, or one that is accepted."""
        if self.format == "torch" and self.format not in accepted and wanted != "torch":
            self._export(who)
        if wanted and self.format != wanted and self.target.PRODUCES == wanted and not self.lowered:
            self._lower()
        if self.format not in accepted:
            raise RefusedError(f"{who} takes {_listed(accepted)}, the model is {self.format} by then")

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

    def _append(self, use: str, plugin: Any, options: BaseModel, produces: str) -> None:
        scheme = self.target.SCHEME if plugin.SCHEMED else None
        tools = _tools(use, plugin, options, scheme)
        reads = roles(plugin, options, self.digests)
        missing = [role for role in reads if role not in self.digests]
        if missing:
            raise OptimizerError(
                f"{self.label}: the step '{use}' needs the data role '{missing[0]}'; the recipe has "
                f"{_listed(tuple(self.digests)) or 'no data'}",
                f"add data: {{{missing[0]}: <card/split or file>}}; random data is never used instead",
            )
        source = self.steps[-1].key if self.steps else None
        ingredients = self._ingredients(use, plugin, options, source, scheme, tools)
        key = fingerprint.of_value(ingredients)
        self.steps.append(
            Step(use, plugin, options, source, produces, scheme, ingredients, key, f"{self.label}: {use}")
        )

    def _ingredients(
        self,
        use: str,
        plugin: Any,
        options: BaseModel,
        source: str | None,
        scheme: QuantScheme | None,
        tools: dict[str, str],
    ) -> dict[str, Any]:
        found: dict[str, Any] = {
            "layout": KEY_LAYOUT,
            "use": use,
            "version": plugin.VERSION,
            "options": _compile_options(plugin, options),
            "source": source,
            "tools": tools,
        }
        reads = roles(plugin, options, self.digests)
        if reads:
            found["data"] = {role: self.digests[role] for role in reads}
        if reads or hasattr(plugin, "welcome"):  # without data it looks at inputs made from the seed
            found["seed"] = self.recipe.seed
        if scheme:
            found["scheme"] = fingerprint.of_value(vars(scheme))
        return found


def _compile_options(plugin: Any, options: BaseModel) -> dict[str, Any]:
    """The options that decide the files: a target names them in COMPILE, the others only open the files."""
    found = schema.ingredients(options)
    kept = getattr(plugin, "COMPILE", None)
    return {k: v for k, v in found.items() if (kept is None or k in kept) and k != "license"}


def roles(plugin: Any, options: BaseModel, given: Container[str]) -> tuple[str, ...]:
    """The data roles that a step reads with these options: those it needs, the first welcome one that is `given`."""
    needed: tuple[str, ...] = plugin.data(options) if hasattr(plugin, "data") else plugin.DATA
    welcome = plugin.welcome(options) if hasattr(plugin, "welcome") else ()
    return (*needed, *[role for role in welcome if role in given][:1])


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(names)


def _tools(use: str, plugin: Any, options: BaseModel, scheme: QuantScheme | None) -> dict[str, str]:
    """Distribution -> version of what a step works with; OptimizerError naming the extra of one that is missing."""
    names = plugin.tools(options) if hasattr(plugin, "tools") else plugin.TOOLS
    if scheme and hasattr(plugin, "scheme_tools"):
        names = plugin.scheme_tools(scheme)
    found = {}
    for name in names:
        version = machines.version_of(name)
        if version is None:
            raise missing_extra(name, extra_of(name), f"'{use}'")
        found[name] = version
    return found


def extra_of(distribution: str) -> str:
    """The extra of this package that brings a distribution, "all" when none does."""
    for line in importlib.metadata.requires("optc") or []:
        found = re.match(r"([A-Za-z0-9._-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if found and found[1].lower() == distribution.lower() and found[2] not in ("all", "dev"):
            return found[2]
    return "all"
