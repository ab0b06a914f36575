"""What the engine asks of whoever makes and measures trials: `trial.py` for real, a table of numbers in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optimizer.search.points import Point
from optimizer.search.standing import Stand
from optimizer.values import Measurement


@dataclass(frozen=True)
class Built:
    """An artifact, and what is cheap to know of it."""

    digest: str  # of its files and the options that they are run with
    measurements: tuple[Measurement, ...]  # its size
    error: float  # of its outputs: noise power over signal power
    precision: str


@dataclass(frozen=True)
class Timed:
    """What one session showed of one trial."""

    objective: Measurement
    measurements: tuple[Measurement, ...]


@dataclass(frozen=True)
class Restored:
    """A point with layers put back into float, and which and why in words."""

    point: Point
    why: str


class Runner(Protocol):
    """Makes and measures points. Raises OptimizerError for a point that cannot be."""

    def key(self, point: Point) -> str:
        """What decides everything that will be measured of a point; makes nothing."""
        ...

    def build(self, point: Point) -> Built: ...

    def time(self, points: Sequence[Point], thorough: bool) -> Mapping[str, Timed | str]:
        """Name -> numbers of one interleaved session, or why it could not be measured."""
        ...

    def judge(self, point: Point) -> tuple[Measurement, ...]:
        """Every metric on the select data."""
        ...

    def stand(self, point: Point, found: Sequence[Measurement]) -> Stand:
        """How the gates hold for it; without metrics, as far as the other gates go."""
        ...

    def restored(self, point: Point, seconds: float) -> list[Restored]:
        """The point with its most harmful layers left in float, for one that breaks the gates."""
        ...


class Space(Protocol):
    """See space.py."""

    def presets(self) -> list[Point]: ...
    def neighbours(self, point: Point) -> list[Point]: ...
