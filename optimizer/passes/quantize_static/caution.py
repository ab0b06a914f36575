"""Calibration data that no method can make good ranges of: too few samples, or inputs that never change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optimizer.formats.calibration import Calibration
from optimizer.passes.quantize_static.ranges import Range

FEW = 16  # samples; with fewer, larger values than were seen are common in other data


def few(data: Calibration, warn: Callable[[str], None]) -> None:
    """Warn when there are hardly any samples."""
    if len(data) < FEW:
        warn(
            f"only {len(data)} calibration samples: values of other data will lie outside the ranges found; "
            "100 to 500 are usual (options samples, and take of the data)"
        )


def constant(found: Mapping[str, Range], data: Calibration, warn: Callable[[str], None]) -> None:
    """Warn of float inputs of the model that have one value throughout."""
    for spec in data.signature.inputs:
        seen = found.get(spec.name)
        if seen and seen.low == seen.high:
            warn(f"the input '{spec.name}' is {seen.low:g} in all calibration data; is this the data that is meant?")
