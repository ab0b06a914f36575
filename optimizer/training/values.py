"""What goes into a training step and what comes out of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from optimizer.protocols import Batch
from optimizer.values import Better

if TYPE_CHECKING:
    import torch
    from torch import nn

POINTS = 200  # of a curve that is kept


@dataclass(frozen=True)
class TensorBatch:
    """Examples on the device that trains: as protocols.Batch, with tensors.

    `feeds`: input name -> tensor of `examples * views` samples; `labels`: None where the data has none;
    `indices`: the examples' places in the data set (int64 array), by which results may be kept from epoch to epoch.
    """

    feeds: dict[str, torch.Tensor]
    labels: torch.Tensor | None
    indices: np.ndarray
    views: int = 1


Loss = Callable[["nn.Module", TensorBatch], "tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]"]
"""(module, batch) -> the scalar that is made small, and its parts by name for the curves."""

Score = Callable[["nn.Module", Iterator[TensorBatch]], Mapping[str, float]]
"""(module in eval mode, batches) -> numbers by name; the first decides which state is best."""


class Examples(Protocol):
    """What the loop draws from: random access by place."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def at(self, places: np.ndarray) -> Batch:
        """The examples at these places, in the order given."""
        ...


@dataclass(frozen=True)
class Validation:
    """How a state is judged while training: never on the data that the gates are judged on.

    `examples`: None holds back a share of the training examples (`Settings.validation`). `score`: None takes the
    mean of the loss and its parts.
    """

    examples: Examples | None = None
    score: Score | None = None
    better: Better = "lower"


@dataclass
class History:
    """The curves of one training, JSON all through. A point of a curve is the mean since the point before."""

    total: int  # steps that were planned
    per_epoch: int  # steps in one pass over the data
    examples: int = 0  # that were trained on
    held_back: int = 0  # that were validated on
    steps: list[int] = field(default_factory=list)  # where the points are
    loss: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)  # the learning rate
    validated: list[int] = field(default_factory=list)  # steps done when the state was validated; 0: before training
    scores: dict[str, list[float]] = field(default_factory=dict)
    judged_by: str | None = None  # the score that decides
    better: Better = "lower"
    best: int | None = None  # steps done in the state that was kept; None: the last
    stopped: int | None = None  # steps done when there was no improvement for too long
    device: str = "cpu"

    def document(self) -> dict[str, Any]:
        """As JSON, for the record of a step."""
        return asdict(self)


def numbers(labels: np.ndarray | None) -> np.ndarray | None:
    """The labels as one array, or None for what no loss compares with: text, JSON, and labels of several shapes."""
    try:
        found = None if labels is None else np.asarray(labels)
    except ValueError:  # labels of several shapes
        return None
    return found if found is not None and found.dtype.kind in "biuf" else None
