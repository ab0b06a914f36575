"""Data sets: from a reference to a specification, its digest, batches of model inputs, and a check of them.

`resolve`, `columns`, `digest` and `count` serve planning and open no more than they must; `open` and `check` read
examples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optimizer.dataset.cards import columns, count, digest, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optimizer.dataset.stream import Stream
    from optimizer.protocols import Dataset
    from optimizer.recipe import DataSpec
    from optimizer.values import Signature

__all__ = ["apart", "check", "columns", "count", "digest", "open", "resolve"]


def open(spec: DataSpec, name: str, signature: Signature | None, seed: int) -> Stream:
    """The data set behind a specification, ready to be fed to a model of this signature.

    The first example is read at once, so that data that does not fit is refused here: OptimizerError naming
    the input, what it expects, what was found and the transform to add. Its label is judged by who reads it. Without
    a signature every column of numbers is fed under its own name.
    """
    from optimizer.dataset import stream

    return stream.open_stream(spec, name, signature, seed)


def check(calibrate: Dataset, evaluate: Dataset | None, samples: int) -> list[str]:
    """What is odd about the calibration data, one sentence each, judged on the first `samples` examples.

    Raises OptimizerError when calibrating on it would mean nothing: no example, NaN or infinity, no variation.
    """
    from optimizer.dataset import inspection

    return inspection.inspect(calibrate, evaluate, samples)


def apart(
    train: Stream,
    others: Mapping[str, Stream],
    drop: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Stream, dict[str, int]]:
    """The training data without what it shares with data that a model is judged on, and how much that was by role.

    Raises OptimizerError where examples are shared and may not be dropped.
    """
    from optimizer.dataset import overlap

    return overlap.apart(train, others, drop, progress)
