"""Subjects that answer load from a model of a queue: no process, no waiting, known answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.measure.arrivals import schedule
from optimizer.measure.process import Opened, Subject
from optimizer.values import Artifact, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec.parse("x", "float32[batch,4]"),), (TensorSpec.parse("y", "float32[batch,2]"),))
SAMPLES = {"x": np.arange(12, dtype=np.float32).reshape(3, 4)}


def subject(name: str, **options: Any) -> Subject:
    variant, _, target = name.partition("@")
    return Subject(
        name, target or "onnxruntime", Artifact("fake", Path("/nowhere"), variant, "0", SIGNATURE, 1), options
    )


def queue(due: np.ndarray, service: float, callers: int) -> np.ndarray:
    """Latencies of a first-come-first-served queue with constant service time, in nanoseconds."""
    free = np.zeros(callers)
    found = []
    for at in due:
        place = int(free.argmin())
        free[place] = max(at, free[place]) + service
        found.append(free[place] - at)
    return np.asarray(found)


@dataclass
class Lab:
    """Launches stand-ins whose calls take `service` nanoseconds by subject; `cores` of them run at once."""

    service: dict[str, float]
    cores: int = 2
    lag: int = 1_000
    fail: tuple[str, int] | None = None  # subject, and the launch of it whose load dies
    log: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    launches: dict[str, int] = field(default_factory=dict)
    alive: int = 0

    def launch(self, subject: Subject, feeds: Path, threads: int) -> FakeProcess:
        assert feeds.is_file()
        self.launches[subject.name] = self.launches.get(subject.name, 0) + 1
        self.alive += 1
        return FakeProcess(self, subject, self.launches[subject.name])


class FakeProcess:
    def __init__(self, lab: Lab, subject: Subject, launch: int) -> None:
        self.lab, self.name, self.options, self.nth = lab, subject.name, subject.options, launch
        self.opened = Opened(load_ns=1, precision="fp32", rss_before=1)
        self.closed = False
        self.rng = np.random.default_rng([launch, *subject.name.encode()])

    def load(self, scenario: str, callers: int, **settings: Any) -> dict[str, Any]:
        self.lab.log.append((self.name, scenario, settings))
        if self.lab.fail == (self.name, self.nth):
            raise OptimizerError(f"measuring '{self.name}': its process was killed by SIGKILL", "more memory")
        base = self.lab.service[self.name]
        if scenario == "offline":
            side = min(callers, self.lab.cores)
            return {"calls": settings["calls"], "wall": settings["calls"] * base / side * self.rng.normal(1, 0.01)}
        return self._serve(base, callers, **settings)

    def _serve(
        self, base: float, callers: int, rate: float, count: int, seed: str,
        bound: int | None = None, most_late: int | None = None, patience: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        assert patience
        latency = queue(schedule(rate, count, seed), base, callers)
        stopped = bool(bound and most_late and (latency > bound).sum() >= most_late)
        if stopped:
            latency = latency[: int(np.flatnonzero(latency > bound)[most_late - 1]) + 1]
        n = len(latency)
        return {
            "latency": latency.astype(int).tolist(), "service": [base] * n, "lag": [self.lab.lag] * n, "span": 1,
            "stopped": stopped,
        }  # fmt: skip

    def close(self) -> None:
        self.lab.alive -= not self.closed
        self.closed = True
