"""The CIFAR ResNets of He et al. 2015 (arXiv:1512.03385, section 4.2) with option-A shortcuts.

State keys follow the weights of github.com/akamaster/pytorch_resnet_cifar10: conv1, bn1,
layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}, linear.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def conv3x3(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (divided by the stride), without bias."""
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut without parameters (option A)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(before, after, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = conv3x3(after, after), nn.BatchNorm2d(after)
        self.changes = before != after
        self.stride = stride
        self.margin = after // 4  # zero channels on each side: the paper's identity with extra zero entries

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The input, strided in space and padded with zero channels where the stage changes."""
        if not self.changes:
            return x
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.margin, self.margin))


class ResNet(nn.Module):
    """Stem of 16 channels, three stages of `blocks` blocks with 16, 32 and 64 channels: depth 6 * blocks + 2."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalized RGB images (n, 3, 32, 32) -> class scores (n, classes)."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def stage(before: int, after: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width; the first one changes width and resolution."""
    first = Block(before, after, stride)
    return nn.Sequential(first, *(Block(after, after, 1) for _ in range(blocks - 1)))


def resnet20() -> ResNet:
    """ResNet-20: 0.27 million parameters."""
    return ResNet(3)


def resnet56() -> ResNet:
    """ResNet-56: 0.85 million parameters."""
    return ResNet(9)
