"""Inputs made from a signature alone: for tracing and structural checks, never for calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optimizer.protocols import Feeds
from optimizer.values import Signature, TensorSpec


def synthetic_feeds(signature: Signature, sizes: Mapping[str, int], seed: int) -> Feeds:
    """One seeded array per input, the free dimensions as in `sizes`.

    Floats are standard normal. Integers are 0 or 1, which any embedding table holds; masks are all ones.
    """
    random = np.random.default_rng(seed)
    return {spec.name: _array(spec, shape_of(spec, sizes), random) for spec in signature.inputs}


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of a tensor once every free dimension has a size."""
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)


def sizes_of(signature: Signature, feeds: Feeds) -> dict[str, int]:
    """The size that each free dimension has in `feeds`."""
    found: dict[str, int] = {}
    for spec in signature.inputs:
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True):
            if isinstance(dim, str):
                found[dim] = int(size)
    return found


def _array(spec: TensorSpec, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if spec.dtype.startswith(("float", "bfloat")):
        wanted = "float32" if spec.dtype == "bfloat16" else spec.dtype  # numpy has no bfloat16
        return random.standard_normal(shape).astype(wanted)
    if spec.dtype == "uint8":
        return random.integers(0, 256, shape).astype("uint8")
    if spec.dtype == "string":
        return np.full(shape, "text", dtype=object)
    if "mask" in spec.name:
        return np.ones(shape, dtype=spec.dtype)
    return random.integers(0, 2, shape).astype(spec.dtype)
