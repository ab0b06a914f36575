"""A step of a plan: a pass or a target with its options, and the ingredients that decide its key."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from optimizer import fingerprint, schema
from optimizer import machine as machines
from optimizer.errors import missing_extra
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
    others: Mapping[str, Other] = field(default_factory=dict)  # further artifacts that it reads, by the user's name
    onward: Onward | None = None  # how an attempt of a step that measures becomes something that its target runs


@dataclass(frozen=True)
class Onward:
    """The way of an attempt, whose key is not known yet, to the target that it is measured on."""

    target: str
    options: BaseModel  # of the target
    steps: Callable[[str], list[Step]]  # key of an attempt -> the steps that follow it


@dataclass(frozen=True)
class Other:
    """An artifact that a step reads beside its source, such as a teacher, and how it is opened."""

    key: str
    target: Any  # the target whose session it becomes
    options: BaseModel


def ingredients_of(
    use: str,
    plugin: Any,
    options: BaseModel,
    source: str | None,
    scheme: QuantScheme | None,
    tools: dict[str, str],
    data: Mapping[str, str],
    seed: int,
) -> dict[str, Any]:
    """What decides the result of a step, but for further artifacts; `data`: digests of the roles that it reads."""
    found: dict[str, Any] = {
        "layout": KEY_LAYOUT,
        "use": use,
        "version": plugin.VERSION,
        "options": _compile_options(plugin, options),
        "source": source,
        "tools": tools,
    }
    if data:
        found["data"] = dict(data)
    if data or hasattr(plugin, "welcome"):  # which looks at inputs made from the seed where there are no data
        found["seed"] = seed
    if hasattr(plugin, "built_for") and (device := plugin.built_for()):
        found["device"] = device
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


def ingredient_of(other: Other) -> list[Any]:
    """What decides the numbers that another artifact gives: its files, and the runtime with the options it has."""
    return [other.key, other.target.__name__, other.target.VERSION, schema.ingredients(other.options)]


def tools_of(use: str, plugin: Any, options: BaseModel, scheme: QuantScheme | None) -> dict[str, str]:
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


def portable(value: Any) -> Any:
    """Options for the record: a file by its name alone (its digest is an ingredient), the rest as JSON."""
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str) and re.fullmatch(r"/.*\.py:\w+", value):
        return value.rpartition("/")[2]
    if isinstance(value, dict):
        return {str(k): portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [portable(v) for v in value]
    return value
