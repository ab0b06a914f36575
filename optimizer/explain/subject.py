"""What is explained: one candidate, what it is compared with, and the data that both run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from optimizer.measure.feeds import shape_feeds
from optimizer.protocols import Batch, Dataset, Feeds
from optimizer.values import Artifact, Machine, Signature

CACHED = 256 << 20  # bytes of examples that are kept instead of being read and transformed again


@dataclass(frozen=True)
class Subject:
    """A candidate with everything that explaining it needs."""

    name: str
    target: str
    artifact: Artifact
    options: Mapping[str, Any]  # of the target
    machine: Machine
    against: str | None = None  # the baseline's name; None when the candidate is the baseline itself
    baseline: Artifact | None = None  # in the candidate's format
    note: str | None = None  # where `baseline` is not the artifact of `against`, why
    data: Dataset | None = None
    metrics: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    batch: int = 32
    seed: int = 0
    dims: Mapping[str, int] = field(default_factory=dict)  # sizes at which the recipe measures latency
    steps: tuple[Mapping[str, Any], ...] = ()  # of the variant, as the recipe writes them

    @property
    def signature(self) -> Signature:
        return self.artifact.signature


class Part:
    """Consecutive examples of a data set as a data set of its own, kept in memory where they are small."""

    def __init__(self, whole: Dataset, skip: int, take: int) -> None:
        self._whole, self._skip = whole, skip
        self._count = max(0, min(take, len(whole) - skip))
        self._kept: dict[int, list[Batch]] = {}

    @property
    def name(self) -> str:
        return self._whole.name

    @property
    def digest(self) -> str:
        return self._whole.digest

    def __len__(self) -> int:
        return self._count

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        """Batches of `size` examples; with `limit` the first ones."""
        count = self._count if limit is None else min(limit, self._count)
        if count == self._count and size in self._kept:
            yield from self._kept[size]
            return
        kept: list[Batch] | None = []
        held = 0
        for batch in self._read(size, count):
            yield batch
            held += sum(array.nbytes for array in batch.feeds.values())
            kept = None if kept is None or held > CACHED else [*kept, batch]
        if kept is not None and count == self._count:
            self._kept[size] = kept

    def _read(self, size: int, count: int) -> Iterator[Batch]:
        seen = 0
        for batch in self._whole.batches(size, self._skip + count):
            length = len(batch.indices)
            first, last = max(self._skip - seen, 0), min(self._skip + count - seen, length)
            seen += length
            if first < last:
                yield batch if (first, last) == (0, length) else _cut(batch, first, last)


def _cut(batch: Batch, first: int, last: int) -> Batch:
    """The examples `first` to `last` of a batch."""
    rows = slice(first * batch.views, last * batch.views)
    return Batch(
        {name: array[rows] for name, array in batch.feeds.items()},
        lambda: None if batch.labels is None else batch.labels[first:last],
        batch.indices[first:last],
        batch.views,
    )


def one(data: Dataset, signature: Signature, batch: int, dims: Mapping[str, int]) -> Feeds:
    """Inputs for one inference of `batch` samples from the first examples, cut or padded by repetition to `dims`."""
    first = next(iter(data.batches(1, 1)))
    rows = _rows(signature, batch)
    examples = max(1, -(-rows // first.views))
    feeds = dict(next(iter(data.batches(examples, examples))).feeds)
    return shape_feeds(signature, feeds, rows, {n: size for n, size in dims.items() if n != signature.batch_symbol()})


def _rows(signature: Signature, batch: int) -> int:
    size = signature.inputs[0].shape[0] if signature.inputs and signature.inputs[0].shape else batch
    return size if isinstance(size, int) else batch
