"""Running sums about a tensor and its counterpart: error, cosine and range without keeping either."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HUGE = 1e30  # from here on a value stands for infinity
SQUARE = 1e15  # below it the sum of many squares fits into float32
PIECE = 1 << 16  # values that are summed at a time


@dataclass
class Sums:
    """Signal, noise and products over all samples; `steps` and `ends` count values at the ends of an integer range."""

    signal: float = 0.0
    other: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    broken: int = 0  # values that are NaN or infinite in one of the two only, or differ in being so
    ends: int = 0
    steps: int = 0

    def add(self, baseline: np.ndarray, candidate: np.ndarray) -> None:
        """Take in one inference of both; shapes are equal. What is not finite in both is left out and counted."""
        one, two = baseline.reshape(-1), candidate.reshape(-1)
        for start in range(0, one.size, PIECE):
            self._piece(one[start : start + PIECE], two[start : start + PIECE])

    def _piece(self, x: np.ndarray, y: np.ndarray) -> None:
        """In float32, which is fast, where squares cannot overflow; sums over pieces are in double precision."""
        if x.dtype != np.float32 or y.dtype != np.float32:
            x, y = x.astype(np.float64), y.astype(np.float64)
        ends = np.array([x.min(), x.max(), y.min(), y.max()], np.float64)
        if not (np.abs(ends) < SQUARE).all():  # also where one of them is NaN
            x, y = self._ordinary(x.astype(np.float64), y.astype(np.float64))
            if not x.size:
                return
            ends = np.array([x.min(), x.max()])
        difference = x - y
        self.signal += float(x @ x)
        self.other += float(y @ y)
        self.product += float(x @ y)
        self.noise += float(difference @ difference)
        self.low, self.high = min(self.low, float(ends[0])), max(self.high, float(ends[1]))
        self.count += x.size

    def _ordinary(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of ordinary numbers. Attention masks hold the lowest float, whose square drowns all others."""
        finite = np.isfinite(x) & np.isfinite(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        self.broken += int((~finite & ~same).sum())
        kept = finite & (np.abs(x) < HUGE) & (np.abs(y) < HUGE)
        return x[kept], y[kept]

    def saturate(self, integers: np.ndarray, ends: Sequence[int]) -> None:
        """Count the quantized values at the ends of their range."""
        self.ends += int(np.isin(integers, ends).sum())
        self.steps += integers.size

    @property
    def ratio(self) -> float:
        """Noise power over signal power; infinite when values broke, 0 when identical."""
        if self.broken:
            return math.inf
        return self.noise / self.signal if self.signal else (math.inf if self.noise else 0.0)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise in dB; None: identical."""
        if not self.noise and not self.broken:
            return None
        if self.broken or not self.signal:
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)

    @property
    def cosine(self) -> float:
        lengths = math.sqrt(self.signal * self.other)
        return self.product / lengths if lengths else float(not self.noise)

    @property
    def saturated(self) -> float | None:
        return self.ends / self.steps if self.steps else None
