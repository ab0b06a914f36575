"""Do several models take the same inputs? Free dimensions named alike, differences told in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from optimizer.values import Signature, TensorSpec

BATCH, NAMELESS = "batch", "dim_"


def named(signature: Signature) -> Signature:
    """The signature with names for free dimensions that have none: `batch` in front, `dim_1` ... behind.

    The formats name a nameless dimension after its tensor and place, so that two inputs never share one.
    """
    return Signature(tuple(map(_named, signature.inputs)), tuple(map(_named, signature.outputs)))


def _named(spec: TensorSpec) -> TensorSpec:
    dims = [(f"{NAMELESS}{i}" if i else BATCH) if d == f"{spec.name}_{i}" else d for i, d in enumerate(spec.shape)]
    return dataclasses.replace(spec, shape=tuple(dims))


def differences(one: Signature, other: Signature) -> list[str]:
    """Why both cannot be given the same inputs, one sentence per input."""
    left, right = ({t.name: t for t in s.inputs} for s in (one, other))
    found = [f"no input '{name}'" for name in left if name not in right]
    found += [f"an input '{name}' ({right[name]}) that the first lacks" for name in right if name not in left]
    for name in left:
        if name in right and not _alike(left[name], right[name]):
            found.append(f"'{name}' is {right[name]} instead of {left[name]}")
    return found


def _alike(a: TensorSpec, b: TensorSpec) -> bool:
    if a.dtype != b.dtype or len(a.shape) != len(b.shape):
        return False
    fixed = [(x, y) for x, y in zip(a.shape, b.shape, strict=True) if isinstance(x, int) and isinstance(y, int)]
    return all(x == y for x, y in fixed)


def carried(found: Signature, source: Signature) -> Signature:
    """`found` with the source's names for dimensions that are free in both, and its order of inputs."""
    return Signature(_carried(found.inputs, source.inputs), _carried(found.outputs, source.outputs))


def _carried(found: Sequence[TensorSpec], source: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    names = [t.name for t in source]
    like = {t.name: t for t in source}
    ordered = sorted(found, key=lambda t: names.index(t.name) if t.name in names else len(names))
    return tuple(_renamed(t, like[t.name]) if t.name in like else t for t in ordered)


def _renamed(spec: TensorSpec, like: TensorSpec) -> TensorSpec:
    if len(spec.shape) != len(like.shape):
        return spec
    dims = [b if isinstance(a, str) and isinstance(b, str) else a for a, b in zip(spec.shape, like.shape, strict=True)]
    return dataclasses.replace(spec, shape=tuple(dims))
