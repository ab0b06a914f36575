"""What 16-bit floats can hold: their ends, and how a constant becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Half:
    """A 16-bit float type."""

    name: str  # in ONNX's words
    code: int  # of onnx.TensorProto
    largest: float
    smallest: float  # beside zero
    refused: frozenset[str] = frozenset()  # operators whose schema takes it and no runtime of ours does

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of numpy arrays."""
        import ml_dtypes  # comes with onnx

        return np.dtype(np.float16 if self.name == "float16" else ml_dtypes.bfloat16)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """The nearest numbers: beyond the ends the ends, and nothing becomes zero, which somebody may divide by."""
        finite = np.where(np.isfinite(values), np.clip(values, -self.largest, self.largest), values)
        found = finite.astype(self.dtype)
        flushed = (found == 0) & (values != 0)
        return np.where(flushed, np.copysign(np.float32(self.smallest), values).astype(self.dtype), found)


LARGEST = 65504.0
NORMAL = 2.0**-14  # the smallest number with all bits of mantissa
SMALLEST = 2.0**-24
FLOAT16 = Half("float16", 10, LARGEST, SMALLEST)
# The parser of TensorRT-RTX 1.7 refuses these; some fifty common operators were tried one by one.
REFUSED = frozenset(("HardSwish", "Mish", "LpNormalization", "Shrink", "Celu"))
BFLOAT16 = Half("bfloat16", 16, 2.0**127 * (2 - 2.0**-7), 2.0**-133, REFUSED)
HALVES = {"fp16": FLOAT16, "bf16": BFLOAT16}
# Relative error (root of the sums of squares) that a weight may take: 20 times that of numbers in float16's range.
LOST = 0.01


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
    lost = float(np.linalg.norm(wide - FLOAT16.stored(values).astype(np.float64))) / size if size else 0.0
    if lost > LOST:
        return f"values are as small as {top:.1g}, of which float16 keeps too few bits: {lost:.1%} are lost"
    return None
