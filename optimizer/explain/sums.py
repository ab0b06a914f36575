"""Running sums about a tensor and its counterpart: error, cosine and range without keeping either."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

HUGE = 1e30  # from here on a value stands for infinity
PIECE = 1 << 18  # values that are widened to float64 at a time


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
            self._piece(one[start : start + PIECE].astype(np.float64), two[start : start + PIECE].astype(np.float64))

    def _piece(self, x: np.ndarray, y: np.ndarray) -> None:
        if not x.size:
            return
        low, high, other = float(x.min()), float(x.max()), float(y @ y)
        if not (-HUGE < low <= high < HUGE and other < HUGE * HUGE):  # also where one of them is NaN
            x, y = self._ordinary(x, y)
            if not x.size:
                return
            low, high, other = float(x.min()), float(x.max()), float(y @ y)
        difference = x - y
        self.signal += float(x @ x)
        self.other += other
        self.product += float(x @ y)
        self.noise += float(difference @ difference)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += x.size

    def _ordinary(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of ordinary numbers. Attention masks hold the lowest float, whose square drowns all others."""
        finite = np.isfinite(x) & np.isfinite(y)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        self.broken += int((~finite & ~same).sum())
        kept = finite & (np.abs(x) < HUGE) & (np.abs(y) < HUGE)
        return x[kept], y[kept]

    def saturate(self, integers: np.ndarray, low: int, high: int) -> None:
        """Count the quantized values at either end of their range."""
        self.ends += int(((integers == low) | (integers == high)).sum())
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
