"""Examples that two data sets share, told by content: also across files, whatever their other columns are called."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import transforms
from optimizer.errors import OptimizerError
from optimizer.protocols import Example

if TYPE_CHECKING:
    from optimizer.dataset.stream import Stream

SHOWN = 3  # rows that a message names
BITS = 64  # of a digest: a million examples against a million meet by chance once in 18 million data sets


def shared(train: Stream, other: Stream, progress: Callable[[int, int], None] = lambda done, total: None) -> np.ndarray:
    """The places in `train` (sorted int64) of the examples that `other` holds as well.

    Compared is what the model's inputs are made of, before any transform: the bytes of pictures, texts, numbers. Labels
    and numbers of rows play no part, nor does the order of the columns. Eight bytes per example are held.
    """
    total = len(train) + len(other)
    known = _digests(other, lambda done: progress(done, total))
    own = _digests(train, lambda done: progress(len(other) + done, total))
    return np.flatnonzero(np.isin(own, known))


def _digests(stream: Stream, progress: Callable[[int], None]) -> np.ndarray:
    columns = made_of(stream)
    found = np.empty(len(stream), np.uint64)
    for place, index in enumerate(np.sort(stream.order).tolist()):
        found[place] = _digest(stream.rows[index], columns)
        if place % 1024 == 0:
            progress(place)
    return found


def made_of(stream: Stream) -> tuple[str, ...]:
    """The raw columns without which the inputs of the first example cannot be made, or are others."""
    raw = stream.rows[int(stream.order.min())]
    whole = _inputs(stream, raw)
    return tuple(name for name in raw if not _equal(whole, _inputs_without(stream, raw, name)))


def _inputs(stream: Stream, raw: Example) -> list[np.ndarray]:
    example = transforms.apply(stream.steps, raw)
    return [feed.sample(example) for feed in stream.feeds]


def _inputs_without(stream: Stream, raw: Example, name: str) -> list[np.ndarray] | None:
    try:
        return _inputs(stream, {key: value for key, value in raw.items() if key != name})
    except (OptimizerError, KeyError):
        return None


def _equal(one: list[np.ndarray], other: list[np.ndarray] | None) -> bool:
    return other is not None and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _digest(raw: Example, columns: tuple[str, ...]) -> np.uint64:
    """The sum of the digests of the values, so that no order counts."""
    total = sum(int.from_bytes(hashlib.blake2b(_bytes(raw[c]), digest_size=8).digest(), "little") for c in columns)
    return np.uint64(total % (1 << BITS))


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.strip().encode()
    array = np.ascontiguousarray(value)
    return f"{array.dtype} {array.shape} ".encode() + array.tobytes()


def apart(
    train: Stream, others: Mapping[str, Stream], drop: bool, progress: Callable[[int, int], None]
) -> tuple[Stream, dict[str, int]]:
    """See `dataset.apart`."""
    found = {role: shared(train, other, progress) for role, other in others.items()}
    counts = {role: len(places) for role, places in found.items()}
    for role, places in found.items():
        if len(places) and not drop:
            rows = ", ".join(str(row) for row in np.sort(train.order)[places[:SHOWN]].tolist())
            more = ", ..." if len(places) > SHOWN else ""
            raise OptimizerError(
                f"{len(places)} of {len(train)} examples of the training data '{train.name}' are in the data '{role}' "
                f"({others[role].name}) as well (rows {rows}{more}): a model would be judged on what it has learnt",
                "train on other examples (skip, take, another split), or write overlap: drop in the step, "
                "which leaves these out",
            )
    left = np.delete(np.sort(train.order), np.unique(np.concatenate([*found.values(), np.empty(0, np.int64)])))
    if not len(left):
        raise OptimizerError(
            f"every example of the training data '{train.name}' is in {' or '.join(counts)} as well", "train on others"
        )
    return dataclasses.replace(train, order=left), counts
