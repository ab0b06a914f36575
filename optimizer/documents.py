"""JSON Schema of the documents that people write and machines read, plugin options included.

The models of `recipe.py` describe a parsed document; an editor checks what was written. So the shorthands are put
back: a step is a name or a one-key mapping, a data set may be a reference, a recipe may extend another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

from optimizer import registry, transforms
from optimizer.bundle.manifest import Manifest
from optimizer.recipe import DataSpec, Recipe
from optimizer.values import Run

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REF = "#/$defs/{model}"
Json = dict[str, Any]


def json_schema(document: str) -> Json:
    """The JSON Schema of "recipe", "card", "run" or "manifest"."""
    return {"$schema": DIALECT, **DOCUMENTS[document]()}


def _recipe() -> Json:
    schema = _written(Recipe, ("passes", "targets", "metrics", "sources", "transforms"))
    schema["properties"]["extends"] = {"type": "string", "description": "a shipped recipe or a .yaml file to inherit"}
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["extends"]}]
    return schema


def _card() -> Json:
    schema = _written(DataSpec, ("sources", "transforms"))
    for name, options in schema["$defs"].items():
        if "sources" in name:
            options.pop("required", None)  # a split may bring what the card leaves open, such as the path
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["splits"]}]
    split = {key: value for key, value in schema["properties"].items() if key != "splits"}
    digest = split["sha256"]
    schema["$defs"]["Split"] = {"type": ["object", "null"], "properties": split, "additionalProperties": False}
    schema["properties"] = {
        **split,
        "sha256": {"anyOf": [digest, {"type": "object", "additionalProperties": {"type": "string"}}]},
        "splits": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Split"}},
    }
    return schema


def _written(model: type[BaseModel], kinds: Sequence[str]) -> Json:
    """The schema of a document model with every `Use` and data reference as it is written."""
    schema = model.model_json_schema(by_alias=True, ref_template=REF)
    choices = {kind: _options(kind) for kind in kinds}
    named = [(kind, name, options) for kind, found in choices.items() for name, options in found.items()]
    refs, shared = models_json_schema([(options, "validation") for *_, options in named], ref_template=REF)
    defined = {**schema.pop("$defs", {}), **shared.get("$defs", {})}
    defined.pop("Use", None)
    for kind, found in choices.items():
        defined[kind] = _use({name: refs[options, "validation"] for name, options in found.items()}, kind == "metrics")
    schema["$defs"] = defined
    for place, key, kind in PLACES:
        owner = schema if place == model.__name__ else defined.get(place)
        if owner:
            owner["properties"][key] = _with(owner["properties"][key], {"$ref": f"#/$defs/{kind}"})
            owner["properties"][key].pop("default", None)  # of the parsed form
    if "passes" in choices:  # options may hold steps, as `through` does
        steps = {"$ref": REF.format(model="passes")}
        defined = schema["$defs"] = {name: _with(found, steps) for name, found in defined.items()}
    if "Own" in defined:  # may be written as its steps alone
        listed = {"type": "array", "items": {"$ref": REF.format(model="passes")}}
        written = {"anyOf": [{"$ref": REF.format(model="Own")}, listed]}
        variants = schema["properties"]["variants"] = _with(schema["properties"]["variants"], written, "Own")
        removed = {"type": "null", "description": "leaves out a variant of the recipe that this one extends"}
        variants["additionalProperties"] = {"anyOf": [variants["additionalProperties"], removed]}
    for owner in (schema, *defined.values()):
        if "data" in owner.get("properties", {}) and "variants" in owner["properties"]:
            references = owner["properties"]["data"]
            references["additionalProperties"] = {"anyOf": [{"type": "string"}, references["additionalProperties"]]}
    if "MeasureSpec" in defined:
        for name in ("latency", "offline", "server", "sweep"):
            scenario = defined["MeasureSpec"]["properties"][name]
            scenario["anyOf"] = [*scenario["anyOf"], {"const": False}]
    return schema


# Where a document names plugins: (model, key, kind).
PLACES = (
    ("Recipe", "variants", "passes"),
    ("Own", "steps", "passes"),
    ("Recipe", "targets", "targets"),
    ("MeasureSpec", "metrics", "metrics"),
    ("DataSpec", "source", "sources"),
    ("DataSpec", "transforms", "transforms"),
)


def _options(kind: str) -> dict[str, type[BaseModel]]:
    if kind == "transforms":
        return {name: row.options for name, row in transforms.TABLE.items()}
    return {name: registry.load(kind, name).Options for name in registry.names(kind)}  # type: ignore[arg-type]


def _use(options: Mapping[str, Json], by_entry: bool) -> Json:
    """A plugin as written: its name, or a one-key mapping to its options; a metric also as file.py:callable."""
    properties = {name: {"anyOf": [ref, {"type": "null"}]} for name, ref in options.items()}
    mapping = {"type": "object", "properties": properties, "additionalProperties": False, "maxProperties": 1}
    entry = [{"type": "string", "pattern": ":"}] if by_entry else []
    return {"anyOf": [{"enum": list(options)}, *entry, {**mapping, "minProperties": 1}]}


def _with(schema: Json, replacement: Json, model: str = "Use") -> Json:
    """A schema in which every reference to a model is replaced, whatever it is nested in."""
    if schema.get("$ref") == REF.format(model=model):
        return {**{k: v for k, v in schema.items() if k != "$ref"}, **replacement}
    return {key: _replaced(value, replacement, model) for key, value in schema.items()}


def _replaced(value: Any, replacement: Json, model: str) -> Any:
    if isinstance(value, list):
        return [_replaced(item, replacement, model) for item in value]
    return _with(value, replacement, model) if isinstance(value, dict) else value


DOCUMENTS: dict[str, Callable[[], Json]] = {
    "recipe": _recipe,
    "card": _card,
    "run": lambda: TypeAdapter(Run).json_schema(),
    "manifest": lambda: Manifest.model_json_schema(by_alias=True),
}
