"""Calibration examples as feeds for one inference each, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.protocols import Dataset, Feeds
from optimizer.values import Signature

TOGETHER = 8  # samples per inference where all have one shape


@dataclass(frozen=True)
class Calibration:
    """At most `limit` examples of a data set, for a model with this signature; may be read any number of times."""

    data: Dataset
    signature: Signature
    limit: int

    def __len__(self) -> int:
        return min(self.limit, len(self.data))

    def feeds(self, together: bool = False) -> Iterator[Feeds]:
        """One inference after the other: a single example each, or several `together`.

        Samples whose shapes differ are never put together: the padding would enter the ranges. A model with a
        fixed batch size gets exactly that many rows; what is left over is dropped.
        Raises OptimizerError when nothing comes out.
        """
        batch = self.signature.batch_symbol()
        rows = None if batch else self._fixed_rows()
        ragged = any(symbol != batch for symbol in self.signature.symbols())
        size = rows or (TOGETHER if together and not ragged else 1)
        count = 0
        for found in self.data.batches(size, self.limit):
            for feeds in [found.feeds] if rows is None else _cut(found.feeds, rows):
                self._refuse_nan(feeds)
                count += 1
                yield feeds
        if not count:
            raise OptimizerError(
                f"the calibration data '{self.data.name}' gives no sample for this model",
                f"it needs at least {rows or 1} rows; check skip and take of the data",
            )

    def _refuse_nan(self, feeds: Feeds) -> None:
        """NaN has no range, and runtimes pass over it in silence where they look for one."""
        for name, values in feeds.items():
            if values.dtype.kind == "f" and values.size and np.isnan(values.min()):
                raise OptimizerError(
                    f"the calibration data '{self.data.name}' holds NaN in the input '{name}'",
                    "take these rows out, or fill them as the model's own preprocessing does",
                )

    def _fixed_rows(self) -> int:
        shape = self.signature.inputs[0].shape if self.signature.inputs else ()
        return int(shape[0]) if shape else 1


def _cut(feeds: Feeds, rows: int) -> Iterator[Feeds]:
    """Pieces of exactly `rows` rows."""
    total = min((len(array) for array in feeds.values() if array.ndim), default=0)
    for start in range(0, total - rows + 1, rows):
        yield {name: array[start : start + rows] if array.ndim else array for name, array in feeds.items()}


@dataclass(frozen=True)
class Stream:
    """Calibration samples that a library may read as often as it likes, with progress per reading.

    Raises OptimizerError for infinite inputs, of which NNCF makes ranges that no runtime can compile.
    """

    data: Calibration
    progress: Callable[[int, int], None]

    def __iter__(self) -> Iterator[Feeds]:
        for done, feeds in enumerate(self.data.feeds(), start=1):
            self.progress(min(done, len(self.data)), len(self.data))
            for name, values in feeds.items():
                if values.dtype.kind == "f" and np.isinf(values).any():
                    raise OptimizerError(
                        f"the calibration data '{self.data.data.name}' holds infinity in the input '{name}'",
                        "take these rows out, or write a large number instead",
                    )
            yield feeds
