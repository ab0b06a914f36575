"""What exists: recipes, plugins, transforms and data cards, with their options and why one cannot be used here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from optimizer import content, recipe, registry, transforms
from optimizer.dataset import cards
from optimizer.errors import OptimizerError, missing_extra
from optimizer.machine import version_of
from optimizer.registry import Kind
from optimizer.steps import extra_of

Section = Literal["recipes", "passes", "targets", "sources", "metrics", "layouts", "transforms", "cards"]
SECTIONS: tuple[Section, ...] = get_args(Section)


@dataclass(frozen=True)
class Option:
    """One key that an options class or document accepts."""

    name: str
    type: str
    default: str | None  # as a recipe writes it; None: the option is required
    description: str


@dataclass(frozen=True)
class Item:
    """One thing that a recipe can name."""

    name: str
    origin: str  # "built-in", or the module or file that it comes from
    summary: str
    trouble: str | None = None  # why it cannot be used here
    pending: str | None = None  # why what it builds here can only be run elsewhere
    options: tuple[Option, ...] = ()


def items(section: Section) -> list[Item]:
    """Everything in a section, by name."""
    if section == "recipes":
        return [_recipe(name) for name in recipe.shipped()]
    if section == "cards":
        return [item for name in cards.shipped() for item in _card(name)]
    if section == "transforms":
        return [_transform(name) for name in transforms.TABLE]
    return [_plugin(section, entry) for entry in registry.entries(section).values()]


def options(model: type[BaseModel]) -> tuple[Option, ...]:
    """The keys of an options class in order, with type, default and description."""
    shapes = _shapes(model)
    return tuple(
        Option(info.alias or name, shapes[info.alias or name], _default(info), info.description or "")
        for name, info in model.model_fields.items()
    )


def first_sentence(text: str | None) -> str:
    """A docstring's first paragraph on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


def _recipe(name: str) -> Item:
    document = recipe.read_yaml(recipe.locate(name))
    try:
        recipe.load(name)
        trouble = None
    except OptimizerError as error:
        trouble = error.message
    return Item(name, "built-in", str(document.get("description", "")), trouble)


def _card(name: str) -> list[Item]:
    path = content.root("calibration") / f"{name}.yaml"
    found = recipe.read_yaml(path)
    summary = str(found.get("description", ""))
    return [
        Item(f"{name}/{split}" if split else name, "built-in", summary, _card_trouble(name, split))
        for split in cards.splits(path) or [""]
    ]


def _card_trouble(name: str, split: str) -> str | None:
    try:
        cards.resolve(recipe.DataRef(ref=f"{name}/{split}" if split else name), content.root("calibration"))
    except OptimizerError as error:
        return error.message
    return None


def _transform(name: str) -> Item:
    kind = transforms.TABLE[name]
    return Item(name, "built-in", first_sentence(kind.function.__doc__), options=options(kind.options))


def _plugin(kind: Kind, entry: registry.Entry) -> Item:
    origin = "built-in" if entry.built_in else entry.module
    if entry.broken:
        return Item(entry.name, origin, "", f"broken: {entry.broken}")
    module = registry.load(kind, entry.name)
    summary = first_sentence(module.__doc__).removeprefix(f"{entry.name}: ")
    trouble = module.probe() if kind == "targets" else None
    lacking = [tool for tool in getattr(module, "TOOLS", ()) if kind == "metrics" and version_of(tool) is None]
    if lacking:
        error = missing_extra(lacking[0], extra_of(lacking[0]), "it")
        trouble = f"{error.message}; {error.hint}"
    pending = registry.pending(module) if trouble is None else None
    return Item(entry.name, origin, summary, trouble, pending, options(module.Options))


def _default(info: FieldInfo) -> str | None:
    if info.is_required():
        return None
    return spelled(info.get_default(call_default_factory=True))


def spelled(value: Any) -> str:
    """A default as a recipe would write it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, recipe.Use):
        return value.name
    if isinstance(value, BaseModel):
        return spelled(value.model_dump(mode="json", by_alias=True, exclude_defaults=True))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {spelled(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(spelled(v) for v in value) + "]"
    return str(value) if value != "" else "''"


def _shapes(model: type[BaseModel]) -> dict[str, str]:
    """The type of every key in words, from the JSON Schema."""
    schema = model.model_json_schema(by_alias=True)
    defined = schema.get("$defs", {})
    return {name: shape(found, defined) for name, found in schema.get("properties", {}).items()}


SIMPLE = {"integer": "int", "number": "float", "boolean": "bool", "null": "null"}


def shape(schema: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    """A JSON Schema in words: `int`, `list of float`, `a | b`, `mapping of name to text`."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        return "name with options" if name == "Use" else name
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(shape(part, defined) for part in schema[key]))
    kind = schema.get("type")
    if kind == "array":
        return _array(schema, defined)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"mapping of name to {shape(inner, defined)}" if isinstance(inner, Mapping) and inner else "mapping"
    if kind == "string":
        return "path" if schema.get("format") in ("path", "file-path", "directory-path") else "text"
    return SIMPLE.get(str(kind), "any") + _bounds(schema)


def _array(schema: Mapping[str, Any], defined: Mapping[str, Any]) -> str:
    if "prefixItems" in schema:
        return "[" + ", ".join(shape(part, defined) for part in schema["prefixItems"]) + "]"
    return f"list of {shape(schema.get('items', {}), defined)}"


BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _bounds(schema: Mapping[str, Any]) -> str:
    return "".join(f" {sign} {schema[key]:g}" for key, sign in BOUNDS.items() if key in schema)
