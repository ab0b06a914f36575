"""Subjects opened at the same time, each in a process of its own; one that fails is named, and the others go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from optimizer import registry
from optimizer.errors import OptimizerError
from optimizer.measure.feeds import shape_feeds
from optimizer.measure.process import Opened, Subject, save_feeds
from optimizer.protocols import Feeds
from optimizer.values import Measurement


class Process(Protocol):
    """An opened subject that takes load: `Worker`, or a stand-in with a clock of its own."""

    opened: Opened

    def load(self, scenario: str, **settings: Any) -> dict[str, Any]: ...
    def close(self) -> None: ...


Launch = Callable[[Subject, Path, int], Process]


@dataclass(frozen=True)
class Found:
    """What a scenario brought: numbers, the subjects that failed with their reason, and what to know of the numbers."""

    measurements: list[Measurement] = field(default_factory=list)
    failures: dict[str, OptimizerError] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @contextmanager
    def guard(self, name: str) -> Iterator[None]:
        """Keep a fault that belongs to one subject with its name, so that the others go on."""
        try:
            yield
        except OptimizerError as error:
            self.failures.setdefault(name, error)

    def add(self, other: Found) -> None:
        """Take in what another scenario brought."""
        self.measurements.extend(other.measurements)
        self.failures.update(other.failures)
        self.remarks.extend(other.remarks)


@dataclass(frozen=True)
class Party:
    """The subjects that are measured together, and how they are opened."""

    feeds: Mapping[str, Path]
    launch: Launch
    found: Found

    def alive(self, subjects: Sequence[Subject], order: random.Random) -> list[Subject]:
        """The subjects that have not failed, in an order drawn anew."""
        return [s for s in order.sample(subjects, len(subjects)) if s.name not in self.found.failures]

    def open(self, subject: Subject, stack: ExitStack) -> Process:
        """A fresh process, closed with `stack`."""
        process = self.launch(subject, self.feeds[subject.name], threads(subject))
        return stack.enter_context(closing(process))


def threads(subject: Subject) -> int:
    """The threads that one inference of a subject may use."""
    return int(subject.options.get("threads") or 1)


def side_by_side(subject: Subject, callers: int) -> Subject:
    """The subject with the options under which its runtime runs so many callers at the same time."""
    plugin = registry.load("targets", subject.target)
    told = getattr(plugin, "side_by_side", None)
    if told is None:
        return subject
    options = told(plugin.Options.model_validate(subject.options), callers)
    return replace(subject, options=options.model_dump(mode="json"))


def feeds_for(
    subjects: Sequence[Subject], samples: Feeds, batch: int, dims: Mapping[str, int], folder: Path, where: str
) -> dict[str, Path]:
    """The inputs of each subject as a file; `where` is the place in the recipe that asked for this batch size."""
    paths = {}
    for place, subject in enumerate(subjects):
        try:
            feeds = shape_feeds(subject.artifact.signature, samples, batch, dims)
        except OptimizerError as error:
            hint = error.hint and error.hint.replace("measure.latency", where)
            raise OptimizerError(error.message.replace("measure.latency", where), hint) from None
        paths[subject.name] = folder / f"{place}.npz"
        save_feeds(feeds, paths[subject.name])
    return paths


def shuffled(*parts: object) -> random.Random:
    """The order that belongs to these parts: the same every time."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311  # an order, not a secret
