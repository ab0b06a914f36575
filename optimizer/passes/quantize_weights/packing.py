"""Codes as the kernels of ONNX Runtime read them: unsigned, two of 4 bits in a byte, the first in its lower half."""

from __future__ import annotations

import numpy as np


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Signed codes, int8 (..., m), as uint8 (..., ceil(m * bits / 8)); what fills up the last byte is 0."""
    unsigned = (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    if bits == 8:
        return unsigned
    if unsigned.shape[-1] % 2:
        unsigned = np.pad(unsigned, [(0, 0)] * (unsigned.ndim - 1) + [(0, 1)])
    return unsigned[..., ::2] | (unsigned[..., 1::2] << 4)


def unpacked(found: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The `count` signed codes of each row of `packed`."""
    if bits == 4:
        found = np.stack([found & 15, found >> 4], axis=-1).reshape(*found.shape[:-1], -1)
    return (found[..., :count].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
