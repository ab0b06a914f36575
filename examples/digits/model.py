"""DigitsNet: a small residual CNN for 32x32 grayscale digits."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> the same shape."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class DigitsNet(nn.Module):
    """Images (n, 1, 32, 32), normalized -> class scores (n, 10).

    About 110,000 parameters and 11 million multiply-adds: small enough to train in a minute, large enough
    that integer arithmetic pays for the conversions around it.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.block1 = Residual(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.down_bn = nn.BatchNorm2d(2 * width)
        self.block2 = Residual(2 * width)
        self.linear = nn.Linear(2 * width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 1, 32, 32) -> (n, 10) scores, not yet probabilities."""
        x = self.block1(torch.relu(self.stem_bn(self.stem(image))))
        x = self.block2(torch.relu(self.down_bn(self.down(x))))
        return self.linear(x.mean(dim=(2, 3)))
