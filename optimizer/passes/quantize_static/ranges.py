"""The range of every activation over calibration data, read in a stream: memory holds one inference at a time.

ONNX Runtime's own histogram calibration keeps all activations of all samples (onnxruntime#10503: 256 GB).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from optimizer.formats import extremes, taps
from optimizer.formats.calibration import Calibration
from optimizer.passes.quantize_static import thresholds

if TYPE_CHECKING:
    import onnx

Clip = Callable[[np.ndarray, float], tuple[float, float]]
"""Signed counts over [-top, top], and top -> the range that is worth keeping."""


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a tensor."""

    low: float
    high: float

    @property
    def finite(self) -> bool:
        """False for masks of -inf or the lowest float, which no scale can hold beside ordinary values."""
        return -1e30 < self.low <= self.high < 1e30  # also False for NaN

    @property
    def top(self) -> float:
        return max(abs(self.low), abs(self.high))


class Ends(Protocol):
    """The ends of many ranges, gathered inference by inference."""

    def add(self, lows: np.ndarray, highs: np.ndarray) -> None: ...
    def found(self) -> tuple[np.ndarray, np.ndarray]: ...


class Extremes:
    """The smallest and the largest of all."""

    def __init__(self) -> None:
        self._lows, self._highs = np.array(np.inf), np.array(-np.inf)

    def add(self, lows: np.ndarray, highs: np.ndarray) -> None:
        # A NaN stays: such a tensor is not quantized, and the check of the result names it.
        self._lows, self._highs = np.minimum(self._lows, lows), np.maximum(self._highs, highs)

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        return self._lows, self._highs


class MovingAverage:
    """Exponential moving averages of the extremes of each inference.

    As the observers of quantization-aware training have it (Jacob et al. 2018, section 3.1), with a momentum that
    suits hundreds of inferences instead of millions of steps. They start at nothing and are divided by the weight
    gathered so far, as in Adam (Kingma and Ba 2015, section 3), so that the first inference is one among others.
    """

    MOMENTUM = 0.9

    def __init__(self) -> None:
        self._lows, self._highs, self._weight = np.array(0.0), np.array(0.0), 0.0

    def add(self, lows: np.ndarray, highs: np.ndarray) -> None:
        keep = self.MOMENTUM
        self._lows, self._highs = keep * self._lows + (1 - keep) * lows, keep * self._highs + (1 - keep) * highs
        self._weight = keep * self._weight + 1 - keep

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        return self._lows / self._weight, self._highs / self._weight


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Calibration,
    clip: Clip | None,
    ends: Callable[[], Ends],
    progress: Callable[[int, int], None],
) -> dict[str, Range]:
    """The range of each tensor of the model over the data.

    With `clip` a second pass counts values into a histogram per tensor, and the range shrinks to `clip(counts, top)`.
    `model` is changed meanwhile, and as before when this returns.
    """
    passes = 2 if clip else 1
    found = _extremes(model, tensors, data, lambda done: progress(done, passes * len(data)), ends())
    if clip is None:
        return found
    clipped = {name: seen.top for name, seen in found.items() if seen.finite and seen.top > 0}
    counts = _histograms(model, clipped, data, lambda done: progress(len(data) + done, passes * len(data)))
    for name, top in clipped.items():
        low, high = clip(counts[name], top)
        found[name] = Range(max(found[name].low, low), min(found[name].high, high))
    return found


def _extremes(
    model: onnx.ModelProto, tensors: Sequence[str], data: Calibration, progress: Callable[[int], None], ends: Ends
) -> dict[str, Range]:
    """The ends of each tensor."""
    feeds, limit = data.feeds(together=True), len(data)
    for lowest, highest in extremes.extremes(model, tensors, feeds, lambda done: progress(min(done, limit))):
        ends.add(lowest, highest)
    lows, highs = ends.found()
    return {name: Range(float(low), float(high)) for name, low, high in zip(tensors, lows, highs, strict=True)}


def _histograms(
    model: onnx.ModelProto, tops: Mapping[str, float], data: Calibration, progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Signed counts per tensor, one sample at a time."""
    counts = {name: np.zeros(2 * thresholds.BINS, dtype=np.int64) for name in tops}
    for values in taps.watch(model, tops, data, progress):
        for name, value in values.items():
            counts[name] += thresholds.bins_of(value, tops[name])
    return counts
