"""Every tensor of a candidate against the same tensor of its baseline on real samples, and where the error jumps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np

from optimizer.explain.sums import Sums
from optimizer.explain.taps_onnx import Tap, chunks
from optimizer.protocols import Feeds
from optimizer.values import TensorError

BUDGET = 256 << 20  # bytes of tensors held at once
FLOOR = 1e-3  # noise over signal that 8-bit rounding of a well-scaled tensor may cost: 30 dB
STEEP = 4.0  # 6 dB: one bit


class Tapping(Protocol):
    """Two models whose tensors can be asked for by name; see taps_onnx.py and taps_openvino.py."""

    taps: Sequence[Tap]
    bounds: Mapping[str, tuple[int, ...]]

    def sizes(self, feeds: Feeds) -> Mapping[str, int]:
        """Bytes of each candidate tensor for these feeds."""
        ...

    def run(self, feeds: Feeds, chunk: Sequence[Tap]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(candidate's, baseline's) tensors of a chunk."""
        ...


@dataclass(frozen=True)
class Compared:
    """One TensorError per tensor with a counterpart, in topological order, jumps marked; and on how many rows."""

    tensors: tuple[TensorError, ...]
    rows: int


def compare(
    models: Tapping, samples: Callable[[], Iterator[Feeds]], seconds: float, progress: Callable[[int, int], None]
) -> Compared:
    """Compare all tensors on the samples, or on as many of them as about `seconds` allow, one inference at least."""
    feeds = next(samples(), None)
    if feeds is None or not models.taps:
        return Compared((), 0)
    sums = {tap.name: Sums() for tap in models.taps}
    parts = list(chunks(models.taps, models.sizes(feeds), BUDGET))
    most, rows = None, 0
    for done, part in enumerate(parts):
        for number, feeds in enumerate(islice(samples(), most)):
            begin = time.perf_counter()
            _take(models, feeds, part, sums)
            rows += len(next(iter(feeds.values()))) if done == 0 else 0
            if most is None and number == 1:  # the first one opens sessions, too
                most = max(2, int(seconds / len(parts) / max(time.perf_counter() - begin, 1e-9)))
            if number + 1 == most:
                break
        progress(done + 1, len(parts))
    seen = {tap.name: tap for tap in models.taps if sums[tap.name].count or sums[tap.name].broken}
    ratios = {name: sums[name].ratio for name in seen}
    return Compared(tuple(_error(tap, sums[name], _jumps(tap, ratios)) for name, tap in seen.items()), rows)


def _take(models: Tapping, feeds: Feeds, part: Sequence[Tap], sums: Mapping[str, Sums]) -> None:
    ours, theirs = models.run(feeds, part)
    for tap in part:
        x, y = theirs.get(tap.against), ours.get(tap.name)
        if x is None or y is None or x.shape != y.shape or x.dtype.kind != "f" or y.dtype.kind != "f":
            continue
        sums[tap.name].add(x, y)
        if tap.integers in ours and tap.integers in models.bounds:
            sums[tap.name].saturate(ours[tap.integers], models.bounds[tap.integers])


def _jumps(tap: Tap, ratios: Mapping[str, float]) -> bool:
    """Whether the error of a tensor exceeds what its inputs explain by more than a bit.

    Errors of inputs add up as if they were independent and passed on with the gain of the signal. Below FLOOR nothing
    jumps: that much any 8-bit rounding costs.
    """
    explained = FLOOR + sum(ratios.get(name, 0.0) for name in dict.fromkeys(tap.inputs))
    return ratios[tap.name] > STEEP * explained if math.isfinite(explained) else False


def _error(tap: Tap, sums: Sums, jump: bool) -> TensorError:
    db = sums.sqnr_db
    return TensorError(
        name=tap.name,
        op=tap.op,
        against=tap.against,
        matched=tap.how,
        place=tap.place,
        sqnr_db=None if db is None else max(db, -999.0),  # JSON has no infinity
        cosine=sums.cosine,
        saturated=sums.saturated,
        low=sums.low if sums.count else 0.0,
        high=sums.high if sums.count else 0.0,
        jump=jump,
    )
