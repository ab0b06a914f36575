"""Calibration data that no method can make good use of: too few samples, or inputs that never change."""

from __future__ import annotations

from collections.abc import Callable

from optimizer.formats.calibration import Calibration
from optimizer.formats.taps import rows

FEW = 16  # samples; with fewer, larger values than were seen are common in other data


def few(data: Calibration, warn: Callable[[str], None]) -> None:
    """Warn when there are hardly any samples."""
    count = len(data)
    if count < FEW:
        warn(
            f"only {count} calibration sample{'s' if count > 1 else ''}: other data will hold values beyond those "
            "seen; 100 to 500 are usual (options samples, and take of the data)"
        )


def constant(data: Calibration, warn: Callable[[str], None]) -> None:
    """Warn of float inputs of the model that have one value throughout the first samples.

    Integers are let alone: masks and kinds of tokens may well be the same for all.
    """
    ends: dict[str, set[float]] = {spec.name: set() for spec in data.signature.inputs if spec.dtype.startswith("float")}
    count = 0
    for feeds in data.feeds() if ends else ():
        for name, found in ends.items():
            found |= {float(feeds[name].min()), float(feeds[name].max())} if feeds[name].size else set()
        count += rows(feeds)
        if count >= FEW:
            break
    for name, found in ends.items():
        if len(found) == 1:
            warn(
                f"the input '{name}' is {found.pop():g} throughout the first {count} calibration samples; "
                "is this the data that is meant?"
            )
