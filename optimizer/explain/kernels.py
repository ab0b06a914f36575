"""What a runtime's own profiler says of one kernel, before anything is concluded from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["quantized", "float", "convert", "layout", "other"]
ITEM = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2,
    "int32": 4, "uint32": 4, "int64": 8, "uint64": 8, "bool": 1,
}  # fmt: skip
FEWEST, MOST = 5, 1000  # inferences that are profiled
EVENTS = 100_000  # that a profile may hold: more takes longer to read than to measure


@dataclass(frozen=True)
class Kernel:
    """One kernel with its time in every profiled inference."""

    name: str
    op: str
    kind: Kind
    dtype: str
    times: Sequence[float]  # ms per inference
    implementation: str = ""
    macs: int | None = None
    bytes: int | None = None
    covers: tuple[str, ...] = ()  # names of the graph's nodes that it stands for

    @property
    def ms(self) -> float:
        return float(np.median(self.times)) if len(self.times) else 0.0


@dataclass(frozen=True)
class Profiled:
    """All kernels of one artifact, and what whole inferences took with the profiler and without it."""

    kernels: tuple[Kernel, ...]
    profiled_ms: float  # median of whole inferences, profiler on
    plain_ms: float  # the same, profiler off
    runs: int
    findings: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)  # of the free dimensions


def inferences(seconds_each: float, budget: float, kernels: int) -> int:
    """How many inferences of so many kernels fit into `budget` seconds: at least FEWEST, at most MOST."""
    return int(max(FEWEST, min(MOST, EVENTS / max(kernels, 1), budget / max(seconds_each, 1e-6))))


def gaps(kernels: Sequence[Kernel], total: float) -> Kernel | None:
    """What lies between the kernels (scheduling, allocation, the call itself), as a kernel; None when nothing does.

    `total`: ms of an inference without the profiler, whose own work also lies between the kernels.
    """
    rest = total - sum(kernel.ms for kernel in kernels)
    return Kernel("(between kernels)", "runtime", "other", "", [rest]) if rest > 0 else None
