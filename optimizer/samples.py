"""A handful of inputs to trace and check a model with: real ones where the recipe has data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from optimizer.formats.record import LARGE
from optimizer.protocols import Dataset, Feeds
from optimizer.values import Signature

SMALL = 8  # of a free dimension
TRACED, CHECKED = 2, (1, 3)  # batch sizes: the first traces, the others catch a size that was baked in


@dataclass(frozen=True)
class Samples:
    """Feeds at batch sizes 2, 1 and 3 (or the one fixed size); `synthetic` when made from the signature."""

    feeds: tuple[Feeds, ...]
    synthetic: bool


def real(dataset: Dataset, signature: Signature) -> Samples:
    """Samples from the first examples of a data set; each size takes other examples, so lengths differ too."""
    if signature.batch_symbol() is None:
        size = int(signature.inputs[0].shape[0]) if signature.inputs and signature.inputs[0].shape else 1
        return Samples((_whole(dataset, size),), synthetic=False)
    feeds = [_some(dataset, TRACED, 0), *(_some(dataset, size, 1) for size in CHECKED)]
    return Samples(tuple(feeds), synthetic=False)


def made(signature: Signature, seed: int, dims: Mapping[str, tuple[int, int]] | None = None) -> Samples:
    """Samples made from the signature alone, seeded; good for structure, never for calibration.

    `dims`: free dimension -> smallest and largest size that the model is to support.
    """
    from optimizer.formats.feeds import synthetic_feeds

    batch = signature.batch_symbol()
    sizes: Sequence[int] = (TRACED, *CHECKED) if batch else (1,)
    ranges = {s: (dims or {}).get(s, (1, LARGE)) for s in signature.symbols() if s != batch}

    def feeds(i: int, size: int) -> Feeds:
        others = {s: min(max(SMALL, low) + i, high) for s, (low, high) in ranges.items()}
        return synthetic_feeds(signature, {**others, **({batch: size} if batch else {})}, seed + i)

    return Samples(tuple(feeds(i, size) for i, size in enumerate(sizes)), synthetic=True)


def _some(dataset: Dataset, size: int, nth: int) -> Feeds:
    """The nth batch of a size, or the first where the data set is shorter."""
    found = list(islice(dataset.batches(size, limit=size * (nth + 1)), nth + 1))
    return found[-1].feeds if len(found) > nth else found[0].feeds


def _whole(dataset: Dataset, rows: int) -> Feeds:
    """One batch with exactly `rows` model samples, views counted."""
    first = next(iter(dataset.batches(1, limit=1)))
    return next(iter(dataset.batches(max(rows // first.views, 1), limit=max(rows // first.views, 1)))).feeds
