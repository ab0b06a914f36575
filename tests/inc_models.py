"""Seeded PyTorch models for tests of quantize.inc."""

from __future__ import annotations

import torch
from torch import nn


class Picture(nn.Module):
    """Convolution, normalization, a residual sum, pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.unread = nn.Linear(4, 4)
        nn.init.uniform_(self.norm.running_mean)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(image)))
        hidden = torch.relu(hidden + self.second(hidden))
        scores = self.head(hidden.mean((2, 3)))
        torch.tanh(self.unread(scores))  # as the pooler of a model whose sequence is what is wanted
        return scores


class Sequence(nn.Module):
    """Linear layers on every step, with GELU between them: products of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


class Bounded(nn.Module):
    """A table of positions, which ends."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.table, self.head = nn.Parameter(torch.randn(12, 16)), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.table[: x.shape[1]])


class Plain(nn.Module):
    """Nothing that could be quantized."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(x)
