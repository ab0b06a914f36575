"""Tiny nets, each with one trait that pruning has to get right or has to leave alone."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def lively(module: nn.Module) -> nn.Module:
    """Batch norms as after training: statistics, scales and shifts of their own per channel."""
    generator = torch.Generator().manual_seed(1)
    for inner in module.modules():
        if isinstance(inner, nn.BatchNorm2d):
            for tensor, low, high in (
                (inner.running_mean, -0.5, 0.5), (inner.running_var, 0.5, 1.5), (inner.weight, 0.5, 1.5),
                (inner.bias, -0.2, 0.2),
            ):  # fmt: skip
                with torch.no_grad():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module


class Residual(nn.Module):
    """A stream through two blocks, one of which projects its shortcut: the stream's channels go together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.inner, self.inner_norm = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.wide, self.project = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(8, 16, 1, stride=2)
        self.head = nn.Linear(16, 5)
        lively(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5)."""
        x = torch.relu(self.norm(self.stem(image)))
        x = torch.relu(x + self.outer(torch.relu(self.inner_norm(self.inner(x)))))
        x = torch.relu(self.wide(x) + self.project(x))
        return self.head(x.mean(dim=(2, 3)))


class Depthwise(nn.Module):
    """An inverted residual as in MobileNetV2: expand, depthwise, project."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand, self.norm1 = nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depth, self.norm2 = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False), nn.BatchNorm2d(24)
        self.project = nn.Conv2d(24, 8, 1)
        self.head = nn.Linear(8, 5)
        lively(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5)."""
        x = self.stem(image)
        y = functional.relu6(self.norm1(self.expand(x)))
        x = x + self.project(functional.relu6(self.norm2(self.depth(y))))
        return self.head(x.mean(dim=(2, 3)))


class Concat(nn.Module):
    """Two branches side by side and a dense connection; what reads them reads offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 1)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(24, 5)
        lively(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5)."""
        both = torch.relu(self.norm(torch.cat([self.left(image), self.right(image)], dim=1)))
        return self.head(torch.cat([both, torch.relu(self.mix(both))], dim=1).mean(dim=(2, 3)))


class Grouped(nn.Module):
    """A convolution in four groups (ResNeXt) and a group norm: channels leave from all groups alike."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(3, 16, 1)
        self.grouped, self.norm = nn.Conv2d(16, 24, 3, padding=1, groups=4), nn.GroupNorm(4, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5)."""
        x = torch.relu(self.grouped(torch.relu(self.reduce(image))))
        return self.head(torch.relu(self.norm(x)).mean(dim=(2, 3)))


class Flat(nn.Module):
    """Feature maps flattened before the head (each channel is four of its inputs), and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 6, 2, stride=2)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5)."""
        x = torch.relu(self.down(torch.relu(self.up(image))))
        return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))


class Shifted(nn.Module):
    """An option-A shortcut behind which any channel count runs: only the values tell that channels are mispaired."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.stem = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5, h / 2, w / 2)."""
        x = torch.relu(self.stem(torch.relu(self.inner(image))))
        missing = self.wide.out_channels - x.shape[1]
        short = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))
        return self.head(torch.relu(self.wide(x) + short))


class HardCoded(nn.Module):
    """A view with a number of its own between two layers that could lose channels; the first pair can."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 16)
        self.third = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 3)."""
        y = self.second(torch.relu(self.first(x))).view(-1, 4, 4).transpose(1, 2)
        return self.third(torch.relu(y).reshape(-1, 16))


class PreNorm(nn.Module):
    """A stream that only layer norms read: its channels can leave, though every one feels it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.norm1, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.norm2, self.head = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 6) -> (n, 3)."""
        x = self.embed(x)
        x = x + self.down(functional.gelu(self.up(self.norm1(x))))
        return self.head(self.norm2(x))


class FixedHeads(nn.Module):
    """Attention whose code has the number of heads in it: without one of them it would run on wrong pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, length, 16) -> (n, 3)."""
        split = (f(x).view(*x.shape[:2], 4, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        return self.head(self.out(y).mean(dim=1))


class Attentive(nn.Module):
    """One projection for query, key and value; the module's own attribute counts its heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 4
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, length, 16) -> (n, 3)."""
        parts = (t.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=2))
        y = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        return self.head(self.out(y).mean(dim=1))


class Tower(nn.Module):
    """Six residual layers that a number counts, of which the middle ones do little; and a stack that cannot shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.num_layers = 6
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(6))
        self.pair = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.head = nn.Linear(8, 3)
        for place, size in enumerate((1.0, 0.9, 0.01, 0.02, 0.8, 0.7)):
            nn.init.normal_(self.layers[place][0].weight, std=0.3 * size)
            nn.init.normal_(self.layers[place][0].bias, std=0.3 * size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 3)."""
        for place in range(self.num_layers):
            x = x + self.layers[place](x)
        left, right = self.pair
        return self.head(left(x) * torch.sigmoid(right(x)))


def tiny_bert() -> nn.Module:
    """BERT of two layers and four heads, random weights."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 2}
    return BertModel(BertConfig(vocab_size=60, max_position_embeddings=32, **sizes), add_pooling_layer=False)


class Recurrent(nn.Module):
    """Two layers of an LSTM in both directions: nothing whose channels a graph of layers can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])
