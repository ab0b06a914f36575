"""The parts of an evaluation set: per class and by column, each measured by itself from the rows that are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer.protocols import Batch

MOST = 50  # values per column, the most frequent ones
FEWEST = 20  # examples; smaller parts are counted, not measured
CLASS = "label"
"""The column name under which the classes of a classification metric are sliced."""


@dataclass(frozen=True, eq=False)
class Part:
    """The examples that share a value of a column, or whose number lies in one quarter of its range."""

    column: str
    value: str
    indices: np.ndarray  # positions in the evaluation, in order

    @property
    def at(self) -> dict[str, Any]:
        """As a measurement's setting."""
        return {"column": self.column, "value": self.value}


def classes(batch: Batch, metrics: Mapping[str, tuple[Any, Any]]) -> np.ndarray | None:
    """The labels to slice by: those of a classification metric, one whole number per example."""
    if not any(getattr(metric, "LABELS", None) == "classes" for metric, _ in metrics.values()):
        return None
    labels = batch.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "biuf":
        return None
    return labels.astype(np.int64)


def cut(columns: Mapping[str, np.ndarray], names: list[str]) -> list[Part]:
    """The parts of all columns: text by value, numbers in quartiles, classes under their names.

    A column with one value is no part of anything; of more than MOST values the most frequent are taken.
    """
    return [part for column, values in columns.items() for part in _parts(column, values, names)]


def _parts(column: str, values: np.ndarray, names: list[str]) -> Iterator[Part]:
    if values.dtype.kind == "f":
        yield from _quartiles(column, values)
        return
    found, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(found) < 2:
        return
    kept = np.sort(np.argsort(-counts, kind="stable")[:MOST])
    for place in kept.tolist():
        value = found[place]
        named = column == CLASS and values.dtype.kind == "i" and 0 <= int(value) < len(names)
        text = names[int(value)] if named else str(value) or "(none)"
        yield Part(column, text, np.flatnonzero(inverse == place))


def _quartiles(column: str, values: np.ndarray) -> Iterator[Part]:
    """Numbers by the quarter of the examples they are in; few distinct numbers by value; NaN by itself."""
    known = np.isfinite(values)
    distinct = np.unique(values[known])
    if len(distinct) <= 4:
        texts = np.array([f"{v:g}" if k else "" for v, k in zip(values, known, strict=True)])
        yield from _parts(column, texts, [])
        return
    edges = np.quantile(values[known], [0, 0.25, 0.5, 0.75, 1])
    place = np.searchsorted(edges[1:-1], values, side="right")
    # An edge that repeats (many equal numbers) leaves a quarter empty.
    for quarter in range(4):
        inside = np.flatnonzero(known & (place == quarter))
        if inside.size:
            last = "]" if quarter == 3 else ")"
            yield Part(column, f"[{edges[quarter]:.4g}, {edges[quarter + 1]:.4g}{last}", inside)
    if not known.all():
        yield Part(column, "(none)", np.flatnonzero(~known))
