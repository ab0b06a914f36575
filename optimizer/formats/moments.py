"""Second moments of what layers read: the mean of x xᵀ over calibration data, where an output is W x.

The squared error of an output after its weights move by D is then D (mean of x xᵀ) Dᵀ, for any D: all that an
algorithm that rounds weights needs to know of the data. Read in a stream: memory holds these matrices and one
inference, and ROOM bounds the matrices; more of them mean more readings of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import taps
from optimizer.formats.calibration import Calibration

if TYPE_CHECKING:
    import onnx

ROOM = 64_000_000  # numbers in all matrices that are gathered at once; a larger one comes alone


@dataclass(frozen=True)
class Moments:
    """`matrix` (groups, k, k), the mean over `rows` rows; half of what GPTQ calls the Hessian."""

    matrix: np.ndarray
    rows: int


@dataclass(frozen=True)
class Wanted:
    """Whose moments: the tensor, and how its value in one inference becomes rows (groups, rows, k)."""

    tensor: str
    shape: tuple[int, int, int]  # of the moments: (groups, k, k)
    rows: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Sums:
    """How moments are summed up."""

    dtype: type[np.floating]
    together: bool  # several samples per inference, where their shapes allow it
    held: int  # rows that wait for one product, which is faster when it is large


class Work:
    """Progress over samples that are read and tensors whose layers are worked on, as they take turns."""

    def __init__(self, progress: Callable[[int, int], None], tensors: int) -> None:
        self._progress, self._tensors = progress, tensors
        self._read, self._samples, self._done = 0, 0, 0

    def reading(self, done: int, total: int) -> None:
        """So many samples have been read."""
        self._read, self._samples = done, total
        self._tell()

    def advance(self) -> None:
        """One more tensor is done with."""
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        self._progress(self._read + self._done, self._samples + self._tensors)


def gather(
    model: onnx.ModelProto,
    wanted: Mapping[str, Wanted],
    data: Calibration,
    sums: Sums,
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, Moments]]:
    """The moments under each name, of so many as ROOM holds at a time.

    `model` is changed while data is read, and as before when moments are handed out; leave it so until the last ones.
    """
    parts = list(_parts(wanted))
    for number, names in enumerate(parts):

        def advance(done: int, before: int = number * len(data)) -> None:
            progress(before + done, len(parts) * len(data))

        yield _gathered(model, {name: wanted[name] for name in names}, data, sums, advance)


def _parts(wanted: Mapping[str, Wanted]) -> Iterator[Sequence[str]]:
    part: list[str] = []
    room = ROOM
    for name, one in wanted.items():
        need = int(np.prod(one.shape))
        if part and need > room:
            yield part
            part, room = [], ROOM
        part.append(name)
        room -= need
    if part:
        yield part


def _gathered(
    model: onnx.ModelProto, wanted: Mapping[str, Wanted], data: Calibration, sums: Sums, progress: Callable[[int], None]
) -> dict[str, Moments]:
    totals = {name: _Sum(one.shape, sums) for name, one in wanted.items()}
    tensors = dict.fromkeys(one.tensor for one in wanted.values())
    for values in taps.watch(model, tensors, data, progress, sums.together):
        for name, one in wanted.items():
            totals[name].add(one.rows(values[one.tensor]))
    return {name: totals.pop(name).moments() for name in wanted}


class _Sum:
    """A running sum of x xᵀ."""

    def __init__(self, shape: tuple[int, int, int], sums: Sums) -> None:
        self._matrix = np.zeros(shape, sums.dtype)
        self._most = sums.held
        self._waiting: list[np.ndarray] = []
        self._rows = self._held = 0

    def add(self, rows: np.ndarray) -> None:
        self._waiting.append(rows)
        self._rows += rows.shape[1]
        self._held += rows.shape[1]
        if self._held >= self._most:
            self._flush()

    def moments(self) -> Moments:
        self._flush()
        self._matrix /= max(self._rows, 1)
        return Moments(self._matrix, self._rows)

    def _flush(self) -> None:
        if self._waiting:
            rows = self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting, axis=1)
            self._matrix += rows.transpose(0, 2, 1) @ rows
            self._waiting, self._held = [], 0
