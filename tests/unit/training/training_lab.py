"""Small things to train, and to train on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from optimizer.protocols import Batch
from optimizer.training.settings import Settings
from optimizer.training.values import TensorBatch

QUICK = {"batch": 16, "lr": 0.01, "warmup": 0.0, "validations": 4, "checkpoint": 5}


@dataclass
class Examples:
    """Examples in memory as a data set of the protocol, which can also be drawn from in any order."""

    feeds: dict[str, np.ndarray]
    labels: np.ndarray | None = None
    name: str = "tiny"
    digest: str = "0"

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def at(self, places: np.ndarray) -> Batch:
        labels = None if self.labels is None else self.labels[places]
        return Batch({n: a[places] for n, a in self.feeds.items()}, labels, places)

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        count = min(len(self), len(self) if limit is None else limit)
        for start in range(0, count, size):
            yield self.at(np.arange(start, min(start + size, count)))


class Net(nn.Module):
    """Two layers with batch norm and dropout, so that buffers and random numbers count."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.relu(self.norm(self.hidden(x)))))


def blobs(count: int = 200, seed: int = 0) -> Examples:
    """Three classes that a small net tells apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.random.default_rng(99).standard_normal((3, 8)) * 1.5
    return Examples({"x": (centres[labels] + rng.standard_normal((count, 8))).astype(np.float32)}, labels)


def cross_entropy(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, float]]:
    assert batch.labels is not None
    return nn.functional.cross_entropy(module(batch.feeds["x"]), batch.labels), {}


def settings(**changes: object) -> Settings:
    return Settings.model_validate({**QUICK, **changes})


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Bit by bit."""
    return one.keys() == other.keys() and all(one[n].tobytes() == other[n].tobytes() for n in one)
