"""Which points there are: the preset of every step that fits a target, and what can be changed about a point.

Nothing is listed here by name. A pass takes part when a recipe could write it without options; a pass may say with
`SEARCH`, a tuple of options, what is worth trying (the first entry is its preset; `()`: it takes no part). What it does
not say is read off its options class: a choice is tried with each of its values, a switch both ways. A pass that
changes numbers (LIMIT None) is a conversion, of which a chain has one; a lossless one is a rewrite, which may stand
before it.
A target's `SEARCH` are options of its own worth trying. What is refused for a target is left out.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from optimizer import registry
from optimizer.chain import RefusedError, chain
from optimizer.errors import OptimizerError
from optimizer.schema import parse
from optimizer.search import points
from optimizer.search.asked import INSERTED, Asked
from optimizer.search.points import Point
from optimizer.steps import roles

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """All that may be tried."""

    asked: Asked
    rows: Mapping[str, tuple[Row, ...]]  # pass -> options worth trying, its preset first
    rewrites: tuple[str, ...]  # of the passes, the lossless ones
    settings: Mapping[str, tuple[Row, ...]]  # target -> options of its own worth trying
    roles: Mapping[str, str]  # data roles of the recipe
    missing: Mapping[str, tuple[str, ...]]  # pass that would take part -> data roles that the recipe lacks

    def presets(self) -> list[Point]:
        """Per target the model as it is, then every conversion, rewrite and setting of the runtime by itself.

        Targets take turns, and conversions with what can join them, so that a search that is cut short has seen
        something of each.
        """
        found = [list(self._presets(target)) for target in self.asked.targets]
        longest = max(map(len, found), default=0)
        return [own[place] for place in range(longest) for own in found if place < len(own)]

    def neighbours(self, point: Point) -> list[Point]:
        """What differs from a point in one respect and can be built, the most promising kind of change first."""
        found = {point.identity: point}
        for other in self._changed(point):
            if other.identity not in found and self.refusal(other) is None:
                found[other.identity] = other
        return list(found.values())[1:]

    def refusal(self, point: Point) -> str | None:
        """Why a point cannot be built, as far as that can be told beforehand."""
        recipe = points.trial(self.asked, point)
        use = next(use for use in recipe.targets if use.name == point.target)
        target = registry.load("targets", point.target)
        where = f"target '{point.target}'"
        idle = [name for name, _ in point.steps if _idle(registry.load("passes", name), target)]
        if idle:
            return f"{idle[0]} changes nothing for {point.target}"
        try:
            options = parse(target.Options, {**use.options, **point.options}, where, recipe.base)
            chain(recipe, self.roles, self.asked.variant, point.target, lambda *_: (target, options))
        except RefusedError as refused:
            return str(refused)
        except OptimizerError as error:
            return error.message
        return None

    def _presets(self, target: str) -> Iterator[Point]:
        plain = Point(target)
        yield plain
        conversions = [Point(target, ((name, self.rows[name][0]),)) for name in self.rows if name not in self.rewrites]
        others = [
            *(Point(target, ((name, self.rows[name][0]),)) for name in self.rewrites),
            *(replace(plain, options=row) for row in self._settings(plain)),
        ]
        able = ([point for point in given if self.refusal(point) is None] for given in (conversions, others))
        yield from (point for turn in zip_longest(*able) for point in turn if point)

    def _changed(self, point: Point) -> Iterator[Point]:
        present = [name for name, _ in point.steps]
        for name in self.rewrites:
            if name not in present:
                yield replace(point, steps=((name, self.rows[name][0]), *point.steps))
        for row in self._settings(point):
            yield replace(point, options={**point.options, **row})
        for place, (name, options) in enumerate(point.steps):
            for row in self.rows.get(name, ()):
                changed = (name, {**options, **row})
                yield replace(point, steps=(*point.steps[:place], changed, *point.steps[place + 1 :]))

    def _settings(self, point: Point) -> list[Row]:
        """The settings of a target that the recipe leaves open and the point does not have."""
        written = next(use.options for use in self.asked.recipe.targets if use.name == point.target)
        open_ = [row for row in self.settings[point.target] if not {*row} & {*written}]
        return [row for row in open_ if {**point.options, **row} != dict(point.options)]


def of(asked: Asked) -> Space:
    """The space of a search: passes and settings that fit the recipe, its data, and what is installed."""
    data: dict[str, str] = dict.fromkeys(map(str, asked.recipe.data), "")
    every = {name: found for name in _allowed(asked) if (found := _rows(registry.load("passes", name)))}
    lacking = {name: _lacking(registry.load("passes", name), found[0], data) for name, found in every.items()}
    missing = {name: needed for name, needed in lacking.items() if needed}
    rows = {name: found for name, found in every.items() if name not in missing}
    rewrites = tuple(name for name in rows if registry.load("passes", name).LIMIT is not None)
    timed = asked.spec.objective != "size"  # no setting of a runtime changes the size of its files
    settings = {t: _open(registry.load("targets", t), asked.latency.threads) if timed else () for t in asked.targets}
    return Space(asked, rows, rewrites, settings, data, missing)


def _open(target: Any, threads: int) -> tuple[Row, ...]:
    """Settings of a target worth trying: what it says, and fewer threads, since small models lose by sharing work."""
    fewer = ({"threads": threads >> halvings} for halvings in range(1, threads.bit_length()))
    return (*getattr(target, "SEARCH", ()), *(fewer if "threads" in target.Options.model_fields else ()))


def _allowed(asked: Asked) -> Sequence[str]:
    built_in = [name for name in registry.BUILT_IN["passes"] if name not in INSERTED]
    others = [name for name in registry.names("passes") if name not in (*built_in, *INSERTED)]
    named = asked.spec.algorithms
    return [name for name in (*built_in, *others) if named is None or name in named]


def _idle(plugin: Any, target: Any) -> bool:
    return hasattr(plugin, "changes") and not plugin.changes(target.SCHEME)


def _rows(plugin: Any) -> tuple[Row, ...]:
    """The options of a pass that are worth trying; none where it takes no part."""
    given = getattr(plugin, "SEARCH", None)
    required = any(info.is_required() for info in plugin.Options.model_fields.values())
    if given == () or (given is None and required):
        return ()
    said = tuple(given or ({},))
    known = {name for row in said for name in row}
    return (*said, *(row for row in alternatives(plugin.Options) if not {*row} & known))


def _lacking(plugin: Any, preset: Row, data: Mapping[str, str]) -> tuple[str, ...]:
    """The data roles that a pass reads with its preset and a recipe does not have."""
    return tuple(role for role in roles(plugin, plugin.Options.model_validate(preset), data) if role not in data)


def alternatives(options: type[BaseModel]) -> Iterator[Row]:
    """Every other value of each choice and switch of an options class, one at a time."""
    for name, info in options.model_fields.items():
        if info.is_required():
            continue
        default = info.get_default(call_default_factory=True)
        for value in _values(info.annotation):
            if value != default:
                yield {name: value}


def _values(kind: Any) -> list[Any]:
    """The values of a type that has few of them."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if kind is bool:
        return [False, True]
    if get_origin(kind) in (Union, types.UnionType):
        return [value for inner in get_args(kind) if inner is not type(None) for value in _values(inner)]
    return []
