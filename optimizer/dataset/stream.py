"""A data set as batches of model inputs, streamed from its source through its transforms."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optimizer import registry, transforms
from optimizer.dataset import cards, fitting
from optimizer.errors import OptimizerError, unknown
from optimizer.protocols import Batch, Example
from optimizer.recipe import DataSpec
from optimizer.transforms import Transform
from optimizer.values import Signature


@dataclass
class Stream:
    """A data set bound to a model's inputs. `Batch.indices` are rows of the source."""

    name: str
    spec: DataSpec
    signature: Signature | None
    rows: Sequence[Example]
    order: np.ndarray
    steps: tuple[Transform, ...]
    feeds: tuple[fitting.Feed, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """As `dataset.digest`; computed when first asked for, since it reads all files."""
        return cards.digest(self.spec)

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches of `size` examples in file order; with `shuffle`, `limit` takes a random part of the subset."""
        # Sorted, so that a file is read front to back however its rows were drawn.
        chosen = np.sort(self.order[:limit])
        for start in range(0, len(chosen), size):
            yield self._batch(chosen[start : start + size])

    def at(self, places: np.ndarray) -> Batch:
        """The examples at these places of the subset in file order, in the order given."""
        return self._batch(np.sort(self.order)[places])

    @property
    def pads(self) -> dict[str, float]:
        """Input name -> the value that fills up ragged examples."""
        return {feed.name: feed.pad or 0.0 for feed in self.feeds}

    def example(self, index: int) -> Example:
        """One row of the source after all transforms."""
        with_place = f"data '{self.name}', example {index}"
        try:
            return transforms.apply(self.steps, self.rows[index])
        except OptimizerError as error:
            raise OptimizerError(f"{with_place}: {error.message}", error.hint) from None

    def _batch(self, indices: np.ndarray) -> Batch:
        samples: list[list[np.ndarray]] = [[] for _ in self.feeds]
        kept: list[Example] = []
        columns: dict[str, list[float | str]] = {name: [] for name in self.spec.slices}
        for index in indices.tolist():
            try:
                raw = self.rows[index]
                example = transforms.apply(self.steps, raw)
                for found, feed in zip(samples, self.feeds, strict=True):
                    found.append(feed.sample(example))
                if self.spec.label is not None:  # alone, so that nothing else is held; else the columns that there are
                    own = {name: value for name, value in example.items() if name == self.spec.label}
                    kept.append(own or dict.fromkeys(example))
                for name, values in columns.items():
                    values.append(_sliced(raw, name))
            except OptimizerError as error:
                raise OptimizerError(f"data '{self.name}', example {index}: {error.message}", error.hint) from None
        try:
            feeds = {feed.name: feed.stack(found) for feed, found in zip(self.feeds, samples, strict=True)}
            fitting.agree(feeds, self.signature)
        except OptimizerError as error:
            place = f"data '{self.name}', examples {indices[0]} to {indices[-1]}"
            raise OptimizerError(f"{place}: {error.message}", error.hint) from None
        read = functools.partial(self._labels, indices, kept)
        return Batch(feeds, read, indices, self.spec.views, {name: _column(v) for name, v in columns.items()})

    def _labels(self, indices: np.ndarray, kept: Sequence[Example]) -> np.ndarray | None:
        """One label per example; raises OptimizerError for the first that is none."""
        if self.spec.label is None:
            return None
        found = []
        for index, example in zip(indices.tolist(), kept, strict=True):
            try:
                found.append(_label(example, self.spec.label, self.spec))
            except OptimizerError as error:
                raise OptimizerError(f"data '{self.name}', example {index}: {error.message}", error.hint) from None
        return _array(found)


def open_stream(spec: DataSpec, name: str, signature: Signature | None, seed: int) -> Stream:
    """Open the source, choose the rows, and bind columns to inputs on the first example."""
    source = registry.load("sources", spec.source.name)
    rows = source.open(cards.source_options(spec))
    order = _order(spec, len(rows), seed)
    if not len(order):
        raise OptimizerError(
            f"data '{name}' is empty: its source has {len(rows)} examples, of which {spec.skip} are skipped",
            "check the path, and 'skip' in the card",
        )
    steps = transforms.parse(spec.transforms, f"data '{name}'")
    stream = Stream(name, spec, signature, rows, order, steps)
    first = stream.example(int(order.min()))
    try:
        stream.feeds = fitting.bind(spec, signature, first, transforms.pads(steps))
    except OptimizerError as error:
        raise OptimizerError(f"data '{name}': {error.message}", error.hint) from None
    next(stream.batches(1, limit=1))
    return stream


def _order(spec: DataSpec, total: int, seed: int) -> np.ndarray:
    order = np.arange(min(spec.skip, total), total)
    if spec.shuffle:
        order = np.random.default_rng(seed).permutation(order)
    return order[: spec.take]


def _sliced(raw: Example, column: str) -> float | str:
    """The value of a column that the data is sliced by: a number, or text."""
    if column not in raw:
        raise unknown("slice column", column, list(raw))
    value = raw[column]
    if value is None or isinstance(value, str):
        return value or ""
    array = np.asarray(value)
    if isinstance(value, bytes) or array.size != 1 or array.dtype.kind not in "biufU":
        raise OptimizerError(f"the slice column '{column}' holds no single number or text", "slice by another column")
    return str(array.item()) if array.dtype.kind == "U" else float(array.item())


def _column(values: list[float | str]) -> np.ndarray:
    """Numbers as float64; text as text, also where numbers stand between."""
    if all(isinstance(value, float) for value in values):
        return np.asarray(values, np.float64)
    return np.asarray([value if isinstance(value, str) else f"{value:g}" for value in values])


def _array(labels: list[Any]) -> np.ndarray:
    """Labels as one array where they are numbers of one shape, else as an array of objects."""
    plain = [isinstance(label, int | float | np.ndarray) for label in labels]
    if all(plain) and len({np.shape(label) for label in labels}) <= 1:
        return np.asarray(labels)
    found = np.empty(len(labels), object)
    for place, label in enumerate(labels):  # an assignment of the whole would unpack lists of one length
        found[place] = label
    return found


def _label(example: Example, column: str, spec: DataSpec) -> Any:
    """The label as a number (an index into `labels` where there are names), or as `label_as` says."""
    if column not in example:
        raise unknown("label column", column, list(example))
    value, names = example[column], spec.labels
    if spec.label_as != "number":
        return _worded(value, column, spec.label_as)
    if isinstance(value, str):
        return _named(value, column, names)
    array = np.asarray(value)
    if value is None or array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        raise OptimizerError(f"the label (column '{column}') is {value!r}, not a number", "repair or remove the row")
    if names and not (array.size == 1 and 0 <= array.item() < len(names) and array.item() == int(array.item())):
        raise OptimizerError(
            f"the label (column '{column}') is {value}, out of range: there are {len(names)} classes, from 0",
            "repair the row, or list all classes in 'labels'",
        )
    return array.item() if array.size == 1 else array


def _worded(value: Any, column: str, kind: str) -> Any:
    """A label that is text, or JSON in text."""
    if not isinstance(value, str):
        raise OptimizerError(
            f"the label (column '{column}') is no text, but label_as: {kind} asks for it", "leave label_as out"
        )
    if kind == "text":
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise OptimizerError(f"the label (column '{column}') is not JSON: {error}", "repair the row") from None


def _named(value: str, column: str, names: list[str]) -> int:
    if value in names:
        return names.index(value)
    if names:
        raise unknown("class", value, names, where=f"the label column '{column}'")
    raise OptimizerError(
        f"the label (column '{column}') is the text '{value[:60]}'",
        "list the class names in 'labels', or make the column numeric; label_as: text (wer) or json (map) keeps it",
    )
