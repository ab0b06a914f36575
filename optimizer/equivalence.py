"""How far two models' outputs lie apart on the same samples: a pass is looked at, not believed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds, Session
from optimizer.values import Artifact, Check, Signature, TensorSpec

Outputs = Mapping[str, np.ndarray]


def run_all(session: Session, samples: Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    """The session's outputs for every sample mapping, in order."""
    return [session(feeds) for feeds in samples]


def compare(
    reference: Sequence[Outputs],
    outputs: Sequence[Outputs],
    samples: Sequence[Feeds],
    limit: float | None,
    synthetic: bool,
) -> Check:
    """A Check of `outputs` against `reference`, pair by pair.

    The error of an output is max |a - b| relative to the largest |a| of that output over its sample; with a
    `limit` it must not exceed it, without one it is recorded only. NaN, Inf, a missing output and another
    shape fail in any case. Integer and boolean outputs count the share of elements that differ.
    """
    faults: list[str] = []
    errors, signals, noises, cosines = [0.0], 0.0, 0.0, [1.0]
    for expected, found in zip(reference, outputs, strict=True):
        for name, a in expected.items():
            fault = _structural_fault(name, a, found.get(name))
            if fault:
                faults.append(fault)
                continue
            b = found[name]
            errors.append(_relative_error(a, b))
            if a.dtype.kind == "f" and a.size:
                x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
                signals, noises = signals + float(x @ x), noises + float((x - y) @ (x - y))
                cosines.append(_cosine(x, y))
    worst = max(errors)
    if not faults and limit is not None and worst > limit:
        faults.append(f"outputs differ by {worst:.3g} of the largest value, the tolerance is {limit:g}")
    passed = "pass" if limit is not None else "recorded"
    return Check(
        outcome="fail" if faults else passed,  # type: ignore[arg-type]  # one of the three literals
        max_error=worst,
        limit=limit,
        sqnr_db=10 * math.log10(signals / noises) if noises > 0 and signals > 0 else None,
        cosine=min(cosines),
        batches=tuple(_batch_size(feeds) for feeds in samples),
        synthetic=synthetic,
        reason=faults[0] if faults else None,
    )


def identical(limit: float | None, synthetic: bool) -> Check:
    """The Check of a step whose files equal its source's, byte for byte: nothing to run."""
    return Check("pass", 0.0, limit, None, 1.0, (), synthetic)


def _structural_fault(name: str, expected: np.ndarray, found: np.ndarray | None) -> str | None:
    if found is None:
        return f"output '{name}' is missing"
    if found.shape != expected.shape:
        return f"output '{name}' has shape {list(found.shape)} instead of {list(expected.shape)}"
    if found.dtype.kind == "f" and not np.isfinite(found).all() and np.isfinite(expected).all():
        return f"output '{name}' holds NaN or Inf"
    return None


def _relative_error(a: np.ndarray, b: np.ndarray) -> float:
    if a.size == 0:
        return 0.0
    if a.dtype.kind != "f":
        return float(np.mean(a != b))
    finite = np.isfinite(a)
    if not finite.any():
        return 0.0
    wide, other = a[finite].astype(np.float64), b[finite].astype(np.float64)
    scale = float(np.abs(wide).max())
    return float(np.abs(wide - other).max()) / (scale or 1.0)


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / lengths if lengths else float(not np.any(x - y))


def _batch_size(feeds: Feeds) -> int:
    first = next(iter(feeds.values()), None)
    return int(first.shape[0]) if first is not None and first.ndim else 1


def carry(label: str, found: Signature, source: Artifact | None) -> Signature:
    """The signature read back, with the source's names for free dimensions.

    Raises OptimizerError, which begins with the step's `label`, where they do not otherwise agree.
    """
    if source is None:
        return found
    return Signature(
        _carried(label, "input", found.inputs, source.signature.inputs),
        _carried(label, "output", found.outputs, source.signature.outputs),
    )


def _carried(
    label: str, kind: str, found: tuple[TensorSpec, ...], source: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    by_name = {t.name: t for t in found}
    if set(by_name) != {t.name for t in source}:
        wanted, got = ", ".join(t.name for t in source), ", ".join(by_name)
        raise OptimizerError(f"{label}: the result has the {kind}s {got}, its source has {wanted}")
    carried = []
    for spec in source:
        new = by_name[spec.name]
        if new.dtype != spec.dtype or len(new.shape) != len(spec.shape):
            raise OptimizerError(f"{label}: {kind} '{spec.name}' became {new}, it was {spec}")
        dims = zip(spec.shape, new.shape, strict=True)
        carried.append(dataclasses.replace(spec, shape=tuple(a if isinstance(b, str) else b for a, b in dims)))
    return tuple(carried)
