"""Scales and zero points: from a range or a weight to the 8-bit grid that a scheme allows.

Floats of 8 bits are E4M3 as in Micikevicius et al., FP8 Formats for Deep Learning, 2022 (arXiv:2209.05433), section 3:
no infinities, largest value 448. A scale takes the largest magnitude there; beyond it values saturate, as in ONNX.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

INT32 = 2**31 - 1
FLOAT8 = "float8e4m3fn"
# Symmetric int8 leaves -128 out, as every runtime does.
LIMITS: dict[str, tuple[float, float]] = {"uint8": (0, 255), "int8": (-127, 127), FLOAT8: (-448, 448)}


@dataclass(frozen=True)
class Grid:
    """`real = (stored - zero) * scale`; scale and zero point are scalars, or one per channel."""

    scale: np.ndarray  # float32
    zero: np.ndarray  # of the stored type

    def store(self, values: np.ndarray, axis: int | None = None) -> np.ndarray:
        """The nearest stored values, saturated; half way goes to even, as ONNX's QuantizeLinear does."""
        shape = [-1 if axis == i else 1 for i in range(values.ndim)] if self.scale.ndim else []
        with np.errstate(over="ignore"):  # infinity saturates, too
            scaled = values / self.scale.reshape(shape)
        if self.zero.dtype.kind not in "iu":  # floats round as they are cast
            low, high = LIMITS[FLOAT8]
            floats: np.ndarray = np.clip(scaled, low, high).astype(self.zero.dtype)
            return floats
        low, high = LIMITS[self.zero.dtype.name]
        stored = np.rint(scaled) + self.zero.reshape(shape)
        found: np.ndarray = np.clip(stored, low, high).astype(self.zero.dtype)
        return found


def of_range(low: float, high: float, kind: str, symmetric: bool) -> Grid:
    """The grid of an activation. Zero is always on it: padding and ReLU must be exact.

    A range without extent gets the scale 1, which stores zeros as zeros.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = LIMITS[kind]
    if symmetric:
        high = max(-low, high)
        low = -high
    scale = np.float32(high / top) if kind == FLOAT8 else np.float32((high - low) / (top - bottom))
    if not scale > np.finfo(np.float32).tiny:
        scale = np.float32(1)
    # A symmetric range has its zero in the middle: 0 for int8, 128 for uint8.
    zero = np.rint(bottom - low / scale) if not symmetric or kind == "uint8" else 0.0
    return Grid(np.asarray(scale), np.asarray(np.clip(zero, bottom, top)).astype(_stored(kind)))


def _stored(kind: str) -> np.dtype[Any]:
    """numpy's type for a kind; it has no floats of 8 bits of its own."""
    if kind != FLOAT8:
        return np.dtype(kind)
    import ml_dtypes  # comes with onnx

    found: np.dtype[Any] = np.dtype(ml_dtypes.float8_e4m3fn)
    return found


def top(reduced: bool) -> int:
    """The largest stored weight; `reduced`: of 7 bits."""
    return 63 if reduced else 127


def of_weight(weight: np.ndarray, axis: int | None, reduced: bool, kind: str = "int8") -> Grid:
    """The symmetric grid of a weight, per tensor or per channel along `axis`; `reduced`: only 7 bits of an int8.

    A channel of zeros gets the middle of the other channels' scales: its bias is stored on a grid derived from it.
    """
    rest = tuple(i for i in range(weight.ndim) if i != axis) if axis is not None else None
    # abs().max() without the copy of abs(): weights may be large.
    extent = np.maximum(-weight.min(axis=rest), weight.max(axis=rest)).astype(np.float32)
    scale = np.asarray(extent / np.float32(LIMITS[FLOAT8][1] if kind == FLOAT8 else top(reduced)))
    live = scale > np.finfo(np.float32).tiny
    scale = np.where(live, scale, np.median(scale[live]) if live.any() else np.float32(1)).astype(np.float32)
    return Grid(scale, np.zeros(scale.shape, _stored(FLOAT8 if kind == FLOAT8 else "int8")))


def widened(weight: Grid, bias: np.ndarray, activation: Grid) -> Grid:
    """The weight's grid, coarser in channels whose bias would not fit into 32 bits at the scale of the products.

    A bias is stored as int32 at scale `activation * weight`; a channel of tiny weights and a large bias overflows.
    """
    least = np.abs(bias).max() if not weight.scale.ndim else np.abs(bias)
    least = (least / (activation.scale * np.float64(INT32 // 2))).astype(np.float32)
    return Grid(np.maximum(weight.scale, least), weight.zero)


def bias_of(bias: np.ndarray, weight: Grid, activation: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The bias as int32 and its scale (channels,): products and bias are then summed as they are stored."""
    scale = np.broadcast_to(weight.scale * activation.scale, bias.shape).astype(np.float32)
    stored = np.clip(np.rint(bias.astype(np.float64) / scale), -INT32, INT32)
    return stored.astype(np.int32), scale
