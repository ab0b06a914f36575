"""Sizes on disk and peak memory as measurements: exact or extreme values, without an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimizer.values import Measurement

SIZE_PROTOCOL = {"includes": "every file that the runtime loads, uncompressed, as it lies on disk"}
PEAK_PROTOCOL = {
    "includes": "the largest resident set of the whole process: Python, numpy, the runtime, model, inputs and outputs",
    "summary": "the largest of all restarts",
}


def size_measurements(
    subject: str, size: int, baseline: tuple[str, int] | None, machine_digest: str
) -> list[Measurement]:
    """The artifact's size in bytes and, where there is another as baseline (name, bytes), its ratio to that."""

    def made(value: float, unit: str, **more: Any) -> Measurement:
        return Measurement(
            subject, "size", value=value, low=None, high=None, n=1, unit=unit,
            better="lower", protocol=dict(SIZE_PROTOCOL), machine=machine_digest, **more,
        )  # fmt: skip

    found = [made(float(size), "B", relation="absolute")]
    if baseline is not None and baseline[0] != subject and baseline[1] > 0:
        found.append(made(size / baseline[1], "x", relation="ratio", against=baseline[0]))
    return found


def peak_measurements(
    subject: str,
    peaks: Sequence[int],
    before: Sequence[int],
    baseline: tuple[str, Sequence[int]] | None,
    at: dict[str, Any],
    machine_digest: str,
) -> list[Measurement]:
    """Peak memory in bytes over one fresh process per restart, and its ratio to the baseline's.

    `before` is what each process held before the runtime was loaded; it is stored, not subtracted.
    """
    protocol = PEAK_PROTOCOL | {"restarts": list(peaks), "before_open": max(before)}

    def made(value: float, unit: str, **more: Any) -> Measurement:
        return Measurement(
            subject, "memory.peak", value=value, low=None, high=None, n=len(peaks), unit=unit,
            better="lower", at=dict(at), protocol=protocol, machine=machine_digest, **more,
        )  # fmt: skip

    found = [made(float(max(peaks)), "B", relation="absolute")]
    if baseline is not None:
        found.append(made(max(peaks) / max(baseline[1]), "x", relation="ratio", against=baseline[0]))
    return found
