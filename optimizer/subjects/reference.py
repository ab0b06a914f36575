"""`name=PATH#variant@target`: what a person writes to name something that is to be measured."""

from __future__ import annotations

import re
from dataclasses import dataclass

from optimizer import registry
from optimizer.errors import OptimizerError, unknown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Reference:
    """One thing that was named, taken apart by its spelling alone."""

    text: str
    place: str
    name: str | None = None  # how it is to be called
    target: str | None = None  # where it is to run, instead of its own
    pick: str | None = None  # one candidate of a run: a variant, or variant@target


def parse(text: str) -> Reference:
    """`name=` before a path, `@target` behind it, `#variant@target` for one candidate of a run.

    A path that itself begins like a name and an equals sign is written ./a=b.onnx. Raises OptimizerError for an
    unknown target.
    """
    name, equals, rest = text.partition("=")
    place = rest if equals and NAME.fullmatch(name) else text
    called = name if place is rest else None
    if not place:
        raise OptimizerError(f"'{text}' names nothing", "write PATH, or name=PATH")
    place, mark, pick = place.partition("#")
    if mark:
        return Reference(text, place, called, None, pick or None)
    path, at, target = place.rpartition("@")
    if not at or not path or not re.fullmatch(r"[A-Za-z][\w-]*", target):
        return Reference(text, place, called)
    known = registry.names("targets")
    if target not in known:
        raise unknown("target", target, known, f"'{text}'")
    return Reference(text, path, called, target)
