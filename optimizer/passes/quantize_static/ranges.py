"""The range of every activation over calibration data, read in a stream: memory holds one inference at a time.

ONNX Runtime's own histogram calibration keeps all activations of all samples (onnxruntime#10503: 256 GB).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import taps
from optimizer.formats.calibration import Calibration
from optimizer.passes.quantize_static import thresholds

if TYPE_CHECKING:
    import onnx

PREFIX = "optc_range_"


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


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Calibration,
    choose: Callable[[np.ndarray, float], float] | None,
    progress: Callable[[int, int], None],
) -> dict[str, Range]:
    """The range of each tensor of the model over the data.

    With `choose` a second pass counts magnitudes into a histogram per tensor, and the range is clipped at
    `choose(counts, top)`. `model` is changed meanwhile, and as before when this returns.
    """
    passes = 2 if choose else 1
    found = _extremes(model, tensors, data, lambda done: progress(done, passes * len(data)))
    if choose is None:
        return found
    clipped = [name for name, seen in found.items() if seen.finite and seen.top > 0]
    counts = _histograms(
        model, {n: found[n].top for n in clipped}, data, lambda done: progress(len(data) + done, passes * len(data))
    )
    for name in clipped:
        limit = choose(counts[name], found[name].top)
        found[name] = Range(max(found[name].low, -limit), min(found[name].high, limit))
    return found


def _extremes(
    model: onnx.ModelProto, tensors: Sequence[str], data: Calibration, progress: Callable[[int], None]
) -> dict[str, Range]:
    """Smallest and largest value of each tensor; ONNX Runtime reduces them, so that no tensor leaves it."""
    lows, highs = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    names = [f"{PREFIX}{kind}{i}" for kind in ("min", "max") for i in range(len(tensors))]
    session = taps.session(model, names, _reductions(tensors, names))
    done = 0
    for feeds in data.feeds(together=True):
        values = np.array([_extreme(v) for v in taps.run(session, names, feeds)], dtype=np.float64)
        # A NaN stays: such a tensor is not quantized, and the check of the result names it.
        lows, highs = np.minimum(lows, values[: len(tensors)]), np.maximum(highs, values[len(tensors) :])
        done += _rows(feeds)
        progress(min(done, len(data)))
    return {name: Range(float(low), float(high)) for name, low, high in zip(tensors, lows, highs, strict=True)}


def _reductions(tensors: Sequence[str], names: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes that compute the minimum of each tensor, then the maximum of each, under these names."""
    import onnx

    kinds = ["ReduceMin"] * len(tensors) + ["ReduceMax"] * len(tensors)
    return [
        onnx.helper.make_node(kind, [tensor], [name], name=name, keepdims=1)
        for kind, tensor, name in zip(kinds, (*tensors, *tensors), names, strict=True)
    ]


def _extreme(value: np.ndarray) -> float:
    return float(value.ravel()[0]) if value.size else 0.0


def _histograms(
    model: onnx.ModelProto, tops: Mapping[str, float], data: Calibration, progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Counts of magnitudes per tensor, one sample at a time."""
    counts = {name: np.zeros(thresholds.BINS, dtype=np.int64) for name in tops}
    inputs = {spec.name for spec in data.signature.inputs}
    inner = [name for name in tops if name not in inputs]
    session = taps.session(model, inner)
    for done, feeds in enumerate(data.feeds(), start=1):
        for name in inputs & tops.keys():
            counts[name] += thresholds.bins_of(feeds[name], tops[name])
        for name, value in zip(inner, taps.run(session, inner, feeds), strict=True):
            counts[name] += thresholds.bins_of(value, tops[name])
        progress(min(done, len(data)))
    return counts


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    return max((len(array) for array in feeds.values() if array.ndim), default=1)
