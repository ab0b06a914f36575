"""What float16 can hold: its ends, and how a constant becomes one."""

from __future__ import annotations

import numpy as np

LARGEST = 65504.0
NORMAL = 2.0**-14  # the smallest number with all bits of mantissa
SMALLEST = 2.0**-24
# Relative error (root of the sums of squares) that a weight may take: 20 times that of numbers in float16's range.
LOST = 0.01


def stored(values: np.ndarray) -> np.ndarray:
    """The nearest float16: beyond its ends the ends, and nothing becomes zero, which somebody may divide by."""
    finite = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
    found = finite.astype(np.float16)
    flushed = (found == 0) & (values != 0)
    return np.where(flushed, np.copysign(np.float16(SMALLEST), values).astype(np.float16), found)


def fault(values: np.ndarray) -> str | None:
    """Why a float32 constant cannot be a float16, or None."""
    if not values.size:
        return None
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        return f"{bad} of {values.size} values are NaN or infinite"
    top = float(np.abs(values).max())
    if top > LARGEST:
        return f"values reach {top:.3g}, float16 ends at {LARGEST:.0f}"
    wide = values.astype(np.float64)
    size = float(np.linalg.norm(wide))
    lost = float(np.linalg.norm(wide - values.astype(np.float16).astype(np.float64))) / size if size else 0.0
    if lost > LOST:
        return f"values are as small as {top:.1g}, of which float16 keeps too few bits: {lost:.1%} are lost"
    return None
