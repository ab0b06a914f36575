"""Groups of weights on a grid of integers: (codes - zeros) * scales, the same for every target.

Weights are rows (n, k), one per output; a group is `group` neighbours of a row. Codes are signed, so that a symmetric
grid has zero points of zero; a writer shifts them to what its runtime stores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST = float(np.finfo(np.float32).tiny)  # a smaller scale would be flushed to zero, and divided by


@dataclass(frozen=True)
class Grid:
    """Which integers a weight may become."""

    bits: int
    group: int
    symmetric: bool

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Steps:
    """What turns codes into weights again: one scale (float32) and one zero point (int8) per group, (n, groups)."""

    scales: np.ndarray
    zeros: np.ndarray


@dataclass(frozen=True)
class Quantized:
    """Weights (n, width) as codes (n, groups, group); the last group is filled up with its zero point."""

    codes: np.ndarray  # int8
    steps: Steps
    grid: Grid
    width: int

    def dequantized(self) -> np.ndarray:
        """The weights that the runtime multiplies with, float32 (n, width)."""
        found = restored(self.codes, self.steps)
        return found.reshape(len(found), -1)[:, : self.width]


def grouped(weights: np.ndarray, group: int) -> np.ndarray:
    """Rows (n, k) as (n, groups, group); the last group is filled up with zeros, which every grid holds exactly."""
    rows, width = weights.shape
    missing = -width % group
    padded = np.pad(weights, ((0, 0), (0, missing))) if missing else weights
    return padded.reshape(rows, -1, group)


def spanned(groups: np.ndarray, grid: Grid) -> Steps:
    """The steps whose grid just spans each group (n, groups, group), so that no weight moves by over half a step."""
    return between(*ends(groups), grid)


def ends(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest of each group and zero, float64 (n, groups)."""
    low, high = (np.minimum(groups.min(axis=-1), 0), np.maximum(groups.max(axis=-1), 0))
    return low.astype(np.float64), high.astype(np.float64)


def between(low: np.ndarray, high: np.ndarray, grid: Grid) -> Steps:
    """The steps whose grid goes from `low`, at most zero, to `high`, at least zero; float64 (n, groups).

    A symmetric grid has one more integer below zero than above. The scale takes the sign that puts the larger side
    there, as ONNX Runtime and NNCF do it, too.
    """
    if grid.symmetric:
        larger, smaller = np.maximum(-low, high), np.minimum(-low, high)
        sizes = np.maximum(larger / -grid.low, smaller / grid.high)
        scales = _positive(sizes, larger) * np.where(high >= -low, -1, 1)
        return Steps(scales.astype(np.float32), np.zeros(scales.shape, np.int8))
    scales = _positive((high - low) / (grid.high - grid.low), high - low).astype(np.float32)
    # Half down here and half up in `rounded`: the smallest weight of a group gets the lowest code, the largest the
    # highest, and quantizing the result again finds the same steps.
    zeros = grid.low + np.ceil(-low / scales - 0.5)
    return Steps(scales, np.clip(zeros, grid.low, grid.high).astype(np.int8))


def _positive(scales: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Scales that can be divided by; 1 where a group holds nothing but zeros."""
    return np.where(spans == 0, 1.0, np.maximum(scales, SMALLEST))


def rounded(groups: np.ndarray, steps: Steps, grid: Grid) -> np.ndarray:
    """The nearest codes, int8, in the shape of `groups` (n, groups, group)."""
    found: np.ndarray = groups / steps.scales[..., None]
    found += steps.zeros[..., None] + np.float32(0.5)
    codes: np.ndarray = np.clip(np.floor(found), grid.low, grid.high).astype(np.int8)
    return codes


def restored(codes: np.ndarray, steps: Steps) -> np.ndarray:
    """Codes (n, groups, group) as float32 weights."""
    found = codes.astype(np.float32)
    found -= steps.zeros[..., None]
    found *= steps.scales[..., None]
    return found


def nearest(weights: np.ndarray, grid: Grid) -> Quantized:
    """Round to nearest: each group (n, k) spanned, each weight to the nearest code."""
    groups = grouped(weights, grid.group)
    steps = spanned(groups, grid)
    return Quantized(rounded(groups, steps, grid), steps, grid, weights.shape[1])
