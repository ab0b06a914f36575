"""What a comparison of two runs is made of. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from optimizer.values import Better, Candidate, Outcome

Judged = Literal["pass", "fail", "inconclusive", "reported"]
"""`reported`: shown, and not judged."""


@dataclass(frozen=True)
class Pair:
    """One candidate before and the same after."""

    before: Candidate
    after: Candidate

    @property
    def name(self) -> str:
        """`int8@onnxruntime`, or both names where they differ."""
        one, other = self.before.name, self.after.name
        return one if one == other else f"{one} -> {other}"


@dataclass(frozen=True)
class Pairing:
    """Which candidates belong together, and which stand alone."""

    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...] = ()
    only_after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """One metric of one candidate, before and after, with the interval of the change.

    A `ratio` is after / before. A `drop` is how much worse the later one is, in `unit`.
    """

    subject: str
    metric: str
    relation: Literal["ratio", "drop"]
    before: float | None  # None: not measured
    after: float | None
    unit: str  # of before and after
    better: Better
    value: float | None
    low: float | None  # 95 % interval; None for exact values
    high: float | None
    method: str  # where the interval comes from, with its source
    tolerance: float | None  # a ratio's as a share (0.05), a drop's in its unit; None: there is no rule
    outcome: Judged
    reason: str
    at: dict[str, Any] = field(default_factory=dict)
    n: tuple[int, int] = (0, 0)  # sample counts before and after


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in both runs and may explain a change."""

    kind: Literal["optc", "tool", "machine", "recipe", "step", "verdict", "across"]
    what: str
    subject: str | None = None  # of a step or verdict


@dataclass(frozen=True)
class Side:
    """Where one half of a comparison comes from."""

    label: str  # as it was named
    name: str  # of the run
    created: str
    version: str  # of optc
    machine: str  # digest


@dataclass(frozen=True)
class Rules:
    """How much worse each metric may become before it counts as a regression."""

    ratios: Mapping[str, float]  # judged metrics that are compared as ratios -> largest share of loss
    reported: Mapping[str, float]  # the same for those that are shown only
    drops: Mapping[str, float]  # accuracy by unit ("%" -> pp, "" -> plain), or by the metric's own name


@dataclass(frozen=True)
class Comparison:
    """Everything that comparing two runs gave."""

    before: Side
    after: Side
    pairing: Pairing
    changes: tuple[Change, ...]
    differences: tuple[Difference, ...]
    outcome: Outcome
    sentence: str
    notes: tuple[str, ...] = ()
