"""Training examples decoded once: a file of numbers per model input, drawn from in any order.

Decoding a JPEG or tokenizing a sentence costs as much as a step of a small model, and would be paid in every epoch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from optimizer.disk import disk_errors
from optimizer.errors import OptimizerError
from optimizer.protocols import Batch, Dataset
from optimizer.training.values import Examples, numbers

BOUND = 4 << 30  # bytes of decoded examples; more is decoded again in every epoch


class Column:
    """The samples of one input, one after the other in a file without a name, so that it goes with the process."""

    def __init__(self, folder: Path) -> None:
        self._stream: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it lives as long as the column
        self._shapes: list[tuple[int, ...]] = []
        self._dtype: np.dtype[Any] = np.dtype(np.float32)
        self._flat = np.empty(0)
        self._starts = np.empty(0, np.int64)
        self._even = True  # all samples have one shape
        self.bytes = 0

    def append(self, sample: np.ndarray) -> None:
        self._dtype = sample.dtype
        self._shapes.append(sample.shape)
        self._stream.write(np.ascontiguousarray(sample).tobytes())
        self.bytes += sample.nbytes

    def finish(self) -> None:
        self._stream.flush()
        sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        stream: Any = self._stream  # a file without a name is one to numpy, too, which its types do not say
        self._flat = np.memmap(stream, self._dtype, "r", shape=(int(self._starts[-1]),))
        self._even = len(set(self._shapes)) == 1
        if self._even:
            self._flat = self._flat.reshape(len(self._shapes), *self._shapes[0])

    @property
    def lengths(self) -> np.ndarray | None:
        """Numbers in each sample where they differ, int64; None for samples of one shape."""
        return None if self._even else np.diff(self._starts)

    def take(self, places: np.ndarray, fill: float) -> np.ndarray:
        """The samples at these places on top of each other, ragged ones filled up to the longest."""
        if self._even:
            return np.asarray(self._flat[places])
        samples = [self._sample(int(place)) for place in places]
        longest = [max(sizes) for sizes in zip(*(s.shape for s in samples), strict=True)]
        found = np.full((len(samples), *longest), fill, self._dtype)
        for row, sample in zip(found, samples, strict=True):
            row[tuple(slice(size) for size in sample.shape)] = sample
        return found

    def _sample(self, place: int) -> np.ndarray:
        return np.asarray(self._flat[self._starts[place] : self._starts[place + 1]]).reshape(self._shapes[place])


class Cached:
    """Examples of a data set that went through their transforms once."""

    def __init__(self, name: str, columns: Mapping[str, Column], found: _Seen, pads: Mapping[str, float]) -> None:
        self.name = name
        self._columns, self._pads = columns, pads
        self._labels = None if found.labels is None else np.stack(found.labels)
        self._indices = np.asarray(found.indices)
        self._views = found.views

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def lengths(self) -> np.ndarray | None:
        """How long each example is, where they differ: batches of like lengths waste no time on padding."""
        found = [lengths for column in self._columns.values() if (lengths := column.lengths) is not None]
        return np.max(found, axis=0) if found else None

    def at(self, places: np.ndarray) -> Batch:
        feeds = {n: self._samples(c.take(places, self._pads.get(n, 0.0))) for n, c in self._columns.items()}
        labels = None if self._labels is None else self._labels[places]
        return Batch(feeds, labels, self._indices[places], self._views)

    def _samples(self, array: np.ndarray) -> np.ndarray:
        """(examples, views, ...) -> (examples * views, ...)."""
        return array.reshape(-1, *array.shape[2:]) if self._views > 1 else array[:, 0]


class _Seen:
    def __init__(self) -> None:
        self.indices: list[int] = []
        self.labels: list[np.ndarray] | None = []
        self.views = 1

    def add(self, batch: Batch) -> None:
        self.indices.append(int(batch.indices[0]))
        self.views = batch.views
        found = numbers(batch.labels)
        if found is None or self.labels is None or (self.labels and found[0].shape != self.labels[0].shape):
            self.labels = None
        else:
            self.labels.append(found[0])


def cached(
    dataset: Dataset, folder: Path, bound: int = BOUND, progress: Callable[[int, int], None] = lambda done, total: None
) -> Examples:
    """The examples of `dataset` decoded into files below `folder`; decoded as drawn where they exceed `bound` bytes.

    Labels that are no numbers of one shape are left out. Raises OptimizerError where the data is too large and cannot
    be drawn from.
    """
    columns: dict[str, Column] = {}
    seen, total = _Seen(), len(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(folder):
        for number, batch in enumerate(dataset.batches(1), start=1):
            for name, array in batch.feeds.items():
                columns.setdefault(name, Column(folder)).append(array)
            seen.add(batch)
            if sum(column.bytes for column in columns.values()) / number * total > bound and number >= min(total, 16):
                return _drawn(dataset)
            progress(number, total)
        for column in columns.values():
            column.finish()
    return Cached(dataset.name, columns, seen, getattr(dataset, "pads", {}))


def _drawn(dataset: Dataset) -> Examples:
    if not hasattr(dataset, "at"):
        raise OptimizerError(
            f"data '{dataset.name}' is too large to be kept decoded, and cannot be read in any order",
            "train on fewer examples (take)",
        )
    drawn: Examples = dataset  # type: ignore[assignment]  # `at` is there
    return drawn
