"""A point of the search space: steps on one target and the target's options, as a recipe writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optimizer import fingerprint, gates
from optimizer.recipe import Recipe, parse
from optimizer.search.asked import Asked

LONGEST = 80  # characters of a name, which is also a file's
Steps = tuple[tuple[str, Mapping[str, Any]], ...]


@dataclass(frozen=True)
class Point:
    """Steps with their options, on one target with options beside the recipe's."""

    target: str
    steps: Steps = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Equal for equal points."""
        return fingerprint.canonical([self.target, [[name, dict(o)] for name, o in self.steps], dict(self.options)])

    @property
    def name(self) -> str:
        """`quantize.static-method_percentile@onnxruntime`: what it is called, and where its recipe is written."""
        parts = [part for name, options in self.steps for part in (name, *_told(options))]
        text = "-".join([*parts, *_told(self.options)]) or "as-is"
        if len(text) > LONGEST:
            text = f"{text[: LONGEST - 7]}-{fingerprint.of_value(text)[:6]}"
        return f"{text}@{self.target}"

    def written(self) -> Any:
        """This point as a variant's value for its target."""
        steps = [{name: dict(options)} if options else name for name, options in self.steps]
        return {"steps": steps, "options": dict(self.options)} if self.options else steps


def _told(options: Mapping[str, Any]) -> list[str]:
    return [f"{name}_{_short(value)}" for name, value in options.items()]


def _short(value: Any) -> str:
    """An option's value in letters that a file's name may have."""
    if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
        return f"{len(value)}.{fingerprint.of_value(value)[:6]}" if value else "none"
    return re.sub(r"[^A-Za-z0-9.]+", ".", str(value)).strip(".") or "none"


def start(asked: Asked) -> Recipe:
    """The recipe in which the model as it is stands in the place of the search."""
    return concrete(asked, [Point(target) for target in asked.targets])


def concrete(asked: Asked, points: Sequence[Point]) -> Recipe:
    """The recipe in which these points, one per target at most, stand in the place of the search."""
    document = dict(asked.recipe.document())
    own = {point.target: point.written() for point in points}
    document["variants"] = {n: own if n == asked.variant else v for n, v in document["variants"].items()}
    return _parsed(asked, document)


def trial(asked: Asked, point: Point) -> Recipe:
    """The recipe of one point alone: its target, and the baseline that it is compared with."""
    document = dict(asked.recipe.document())
    variants = document["variants"]
    kept = {point.target, asked.recipe.baseline.partition("@")[2] if asked.recipe.baseline else ""}
    names = [use.name for use in asked.recipe.targets]
    written = document.get("targets") or names
    document["targets"] = [use for name, use in zip(names, written, strict=True) if name in kept]
    plain = variants[asked.plain]
    own = {target: value for target, value in plain.items() if target in kept} if isinstance(plain, dict) else plain
    document["variants"] = {asked.plain: own, asked.variant: {point.target: point.written()}}
    document["gates"] = [text for text in document.get("gates", ()) if _meant(asked, text, kept)]
    document["name"] = f"{asked.recipe.name}-{point.name.replace('@', '-')}"
    return _parsed(asked, document)


def _meant(asked: Asked, text: str, targets: set[str]) -> bool:
    """Whether a gate is about anything that a trial's recipe has."""
    gate = gates.parse(text)
    return gate.variant in (None, asked.plain, asked.variant) and (gate.target is None or gate.target in targets)


def _parsed(asked: Asked, document: Mapping[str, Any]) -> Recipe:
    return parse(document, f"recipe '{asked.recipe.name}'", asked.recipe.base, str(document["name"]))
