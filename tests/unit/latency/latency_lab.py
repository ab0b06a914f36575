"""Subjects on a clock of their own: no process, no waiting, known answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.measure.latency import Subject
from optimizer.measure.process import Opened, load_feeds
from optimizer.values import Artifact, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec.parse("x", "float32[batch,4]"),), (TensorSpec.parse("y", "float32[batch,2]"),))
SAMPLES = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


def subject(name: str, signature: Signature = SIGNATURE, **options: Any) -> Subject:
    variant, _, target = name.partition("@")
    return Subject(name, target, Artifact("fake", Path("/nowhere"), variant, "0", signature, 1), options)


@dataclass
class Lab:
    """Launches fakes and keeps a log of what was asked of which, in order."""

    pace: Callable[[str, int], float]  # (subject, restart) -> mean nanoseconds of a call
    noise: float = 0.02
    fail_at: tuple[str, str] | None = None  # (subject, event) that raises
    error: BaseException = field(default_factory=KeyboardInterrupt)
    log: list[tuple[str, ...]] = field(default_factory=list)
    launches: dict[str, int] = field(default_factory=dict)
    cores: list[tuple[int, ...]] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    clocks: dict[str, dict[str, str]] = field(default_factory=dict)  # subject -> how its session times itself

    def launch(self, subject: Subject, feeds: Path, threads: int, cores: Sequence[int] = ()) -> FakeProcess:
        self.cores.append(tuple(cores))
        self.event(subject.name, "launch")
        restart = self.launches[subject.name] = self.launches.get(subject.name, -1) + 1
        self.shapes.append(load_feeds(feeds)["x"].shape)
        self.alive.add(subject.name)
        return FakeProcess(self, subject.name, restart)

    def event(self, name: str, what: str) -> None:
        self.log.append((name, what))
        if self.fail_at == (name, what):
            raise self.error


class FakeProcess:
    def __init__(self, lab: Lab, name: str, restart: int) -> None:
        self.lab, self.name, self.restart = lab, name, restart
        self.opened = Opened(1_000_000 * (10 + restart), "fp32", 1_000, **lab.clocks.get(name, {}))
        seed = [restart, *name.encode()]
        self.rng = np.random.default_rng(seed)

    def run(self, warmup: int, seconds: float, min_iterations: int) -> list[int]:
        self.lab.event(self.name, "run")
        mean = self.lab.pace(self.name, self.restart)
        calls = max(min_iterations, int(seconds * 1e9 / mean))
        return [int(t) for t in mean * np.exp(self.rng.normal(0, self.lab.noise, calls))]

    def stop(self) -> int:
        self.lab.event(self.name, "stop")
        return 5_000 + 100 * self.restart

    def close(self) -> None:
        self.lab.alive.discard(self.name)
