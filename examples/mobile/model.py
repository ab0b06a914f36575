"""A narrow MobileNetV3-style network for CIFAR: the kind of model that loses most when it is quantized.

Inverted residuals with depthwise convolutions (Sandler et al. 2018, arXiv:1801.04381, section 3.3), hard-swish and
squeeze-and-excite (Howard et al. 2019, arXiv:1905.02244, sections 5.2 and 5.3), narrower than the smallest published.
"""

from __future__ import annotations

import torch
from torch import nn


class Norm(nn.Sequential):
    """A convolution without bias, batch normalization, and an activation where one is given."""

    def __init__(
        self, before: int, after: int, size: int, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = None
    ) -> None:
        conv = nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(after), *([act(inplace=True)] if act else []))


class Excite(nn.Module):
    """Squeeze-and-excite: channels scaled by what the whole image says of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> the same shape."""
        squeezed = torch.relu(self.down(x.mean(dim=(2, 3), keepdim=True)))
        return x * nn.functional.hardsigmoid(self.up(squeezed))


class Inverted(nn.Module):
    """Widen, filter each channel by itself, narrow; the input is added where the shapes allow it."""

    def __init__(self, before: int, after: int, wide: int, stride: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.adds = stride == 1 and before == after
        self.widen = Norm(before, wide, 1, act=act)
        self.filter = Norm(wide, wide, 3, stride, groups=wide, act=act)
        self.excite = Excite(wide)
        self.narrow = Norm(wide, after, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, before, h, w) -> (n, after, h / stride, w / stride)."""
        y = self.narrow(self.excite(self.filter(self.widen(x))))
        return x + y if self.adds else y


class Mobile(nn.Module):
    """Stem at stride 2, inverted residuals down to 4 by 4 pixels, a wide last layer, a linear classifier."""

    def __init__(self, width: int = 16, last: int = 160) -> None:
        super().__init__()
        act = nn.Hardswish
        self.stem = Norm(3, width, 3, 2, act=act)
        blocks = []
        for after, wide, stride in ROWS:
            blocks.append(Inverted(width, after, wide, stride, act))
            width = after
        self.blocks = nn.Sequential(*blocks)
        self.last = Norm(width, last, 1, act=act)
        self.linear = nn.Linear(last, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalized RGB images (n, 3, 32, 32) -> class scores (n, 10)."""
        x = self.last(self.blocks(self.stem(image)))
        return self.linear(x.mean(dim=(2, 3)))


# Of each block: channels of its result, channels inside, stride.
ROWS = [(16, 24, 1), (16, 48, 2), (24, 64, 1), (24, 72, 1), (40, 96, 2), (40, 120, 1)]


def mobile(seed: int = 0) -> Mobile:
    """Hard-swish and excitation, with the weights that training starts from."""
    torch.manual_seed(seed)
    return Mobile()
