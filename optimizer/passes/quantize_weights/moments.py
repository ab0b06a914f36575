"""Second moments of what layers read, over calibration data, read in a stream: memory holds one inference at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import taps
from optimizer.formats.calibration import Calibration

if TYPE_CHECKING:
    import onnx

BUDGET = 1 << 29  # bytes of second moments held at once; more inputs mean more readings of the data
TOGETHER = 512  # rows multiplied at once


@dataclass(frozen=True)
class Moments:
    """The mean of x xᵀ over the rows x of an input: (k, k), half of what GPTQ calls the Hessian."""

    matrix: np.ndarray
    rows: int


def rounds(
    model: onnx.ModelProto,
    widths: Mapping[str, int],
    data: Calibration,
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, Moments]]:
    """The moments of each tensor in `widths`, of so many as BUDGET holds at a time.

    `model` is changed while a round is read, and as before when it is handed out.
    """
    parts = _parts(widths)
    for number, names in enumerate(parts):

        def advance(done: int, before: int = number * len(data)) -> None:
            progress(before + done, len(parts) * len(data))

        yield _observed(model, {name: widths[name] for name in names}, data, advance)


def _parts(widths: Mapping[str, int]) -> list[list[str]]:
    parts: list[list[str]] = []
    room = 0
    for name, width in widths.items():
        size = 8 * width * width
        if not parts or size > room:
            parts.append([])
            room = BUDGET
        parts[-1].append(name)
        room -= size
    return parts


def _observed(
    model: onnx.ModelProto, widths: Mapping[str, int], data: Calibration, progress: Callable[[int], None]
) -> dict[str, Moments]:
    sums = {name: _Sum(width) for name, width in widths.items()}
    for values in taps.watch(model, widths, data, progress, together=True):
        for name, total in sums.items():
            total.add(values[name])
    found = {name: total.moments() for name, total in sums.items()}
    _refuse_infinite(found)
    return found


class _Sum:
    """A running sum of x xᵀ. Rows wait until there are enough for one large product, which is much faster."""

    def __init__(self, width: int) -> None:
        self._matrix = np.zeros((width, width))
        self._waiting: list[np.ndarray] = []
        self._rows = self._held = 0

    def add(self, values: np.ndarray) -> None:
        rows = values.reshape(-1, len(self._matrix))
        self._waiting.append(rows)
        self._rows += len(rows)
        self._held += len(rows)
        if self._held >= TOGETHER:
            self._flush()

    def moments(self) -> Moments:
        self._flush()
        return Moments(self._matrix / max(self._rows, 1), self._rows)

    def _flush(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._waiting)
            self._matrix += rows.T @ rows
            self._waiting, self._held = [], 0


def _refuse_infinite(found: Mapping[str, Moments]) -> None:
    bad = [name for name, seen in found.items() if not np.isfinite(seen.matrix).all()]
    if bad:
        raise OptimizerError(
            f"the calibration data makes values that are not finite: {', '.join(bad[:5])}",
            "look for infinities in the data with optc inspect, and in the weights before these values; "
            "rtn and hqq need no data",
        )
