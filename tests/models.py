"""Tiny seeded models for every test: each is built in code in milliseconds and shows one trait of real ones."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torch.nn import functional


class ConvNet(nn.Module):
    """Image classifier: convolutions, batch norm with real statistics, pooling, a linear head."""

    def __init__(self, classes: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, classes)
        _statistics(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, channels, h, w) -> (n, classes)."""
        x = torch.relu(self.bn1(self.conv1(image)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.linear(x.mean(dim=(2, 3)))


class MLP(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int = 16, inputs: int = 8, classes: int = 3) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs) -> (n, classes)."""
        return self.fc2(torch.relu(self.fc1(x)))


class TwoInputs(nn.Module):
    """Two named inputs of different shapes, the second one used by name only."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 6)
        self.right = nn.Linear(3, 6)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """(n, 4), (n, 3) -> (n, 6)."""
        return self.left(left) * torch.sigmoid(self.right(right))


class TokenEncoder(nn.Module):
    """int64 tokens and a mask -> a unit vector per sequence: an attention layer with learnt positions."""

    def __init__(self, vocabulary: int = 50, width: int = 16, longest: int = 64) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)
        self.feed = nn.Linear(width, width)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, length) tokens, (n, length) mask of 0 and 1 -> (n, width)."""
        x = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        keep = attention_mask[:, None, None, :].bool()
        parts = (layer(x).unsqueeze(1) for layer in (self.query, self.key, self.value))  # (n, 1 head, length, width)
        y = functional.scaled_dot_product_attention(*parts, attn_mask=keep).squeeze(1)
        y = x + functional.gelu(self.feed(self.norm(x + y)))
        mask = attention_mask.unsqueeze(-1).to(y.dtype)
        embedding = (y * mask).sum(1) / mask.sum(1).clamp(min=1.0)
        return functional.normalize(embedding, dim=1)


class Encoder(nn.Module):
    """Two layers of a BERT-like encoder: several heads, a padding mask, norms after the residual sums, GELU."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.projections = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(4)) for _ in range(layers)
        )
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.downs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.ModuleList(nn.LayerNorm(width) for _ in range(2)) for _ in range(layers))

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, length, width), (n, length) mask of 0 and 1 -> (n, length, width)."""
        keep = attention_mask[:, None, None, :].bool()
        for (query, key, value, out), up, down, norms in zip(
            self.projections, self.ups, self.downs, self.norms, strict=True
        ):
            split = (layer(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for layer in (query, key, value))
            y = functional.scaled_dot_product_attention(*split, attn_mask=keep)
            x = norms[0](out(y.transpose(1, 2).reshape(x.shape)) + x)
            x = norms[1](down(functional.gelu(up(x))) + x)
        return x


class FlatAttention(nn.Module):
    """Attention without a head dimension: torch.onnx's dynamo exporter (torch 2.13) refuses it, the tracer does not."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, length, 8) -> the same shape."""
        query, key, value = self.project(x).chunk(3, dim=2)
        return functional.scaled_dot_product_attention(query, key, value)


class Recurrent(nn.Module):
    """Tokens through a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 8)
        self.lstm = nn.LSTM(8, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, length) -> (n, 3)."""
        states, _ = self.lstm(self.tokens(tokens))
        return self.head(states[:, -1])


class UNet(nn.Module):
    """One level down and up again with a skip connection; height and width stay, and are even."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.leave = nn.Conv2d(8, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 1, h, w) -> (n, 2, h, w)."""
        skip = torch.relu(self.enter(image))
        y = torch.relu(self.up(torch.relu(self.down(skip))))
        return self.leave(torch.cat([skip, y], dim=1))


@dataclasses.dataclass
class Boxes:
    """A dataclass inside the outputs of `Detector`."""

    center: torch.Tensor
    size: torch.Tensor


class Detector(nn.Module):
    """Nested outputs: a dict of a tensor, a list over scales, a dataclass and a None."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.boxes = nn.Linear(4, 4)
        self.scores = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> dict[str, object]:
        """(n, 3, h, w) -> scores (n, 2), features at 1/2 and 1/4 of the size, and one box."""
        fine = torch.relu(self.fine(image))
        coarse = torch.relu(self.coarse(fine))
        pooled = coarse.mean(dim=(2, 3))
        boxes = self.boxes(pooled)
        return {
            "scores": self.scores(pooled),
            "features": [fine, coarse],
            "box": Boxes(boxes[:, :2], torch.exp(boxes[:, 2:])),
            "aux": None,
        }


class OptionA(nn.Module):
    """A residual net whose shortcut pads channels by a hard-coded count (He et al. 2015, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 5)
        _statistics(self)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) -> (n, 5)."""
        x = torch.relu(self.bn1(self.conv1(image)))
        shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        x = torch.relu(self.bn2(self.conv2(x)) + shortcut)
        return self.linear(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class ReturnsFromLoop(nn.Module):
    """Leaves a loop over the samples by a return."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 3)."""
        y = self.fc(x)
        for _ in range(3):
            if y.sum() > 0:
                return y
            y = y + 1
        return y


class LeavesLoop(ReturnsFromLoop):
    """The same by a break."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 3)."""
        y = self.fc(x)
        for _ in range(3):
            if y.sum() > 0:
                break
            y = y + 1
        return y


class AddsUp(ReturnsFromLoop):
    """A sum over samples that begins with None."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 3)."""
        found: torch.Tensor | None = None
        for _ in range(x.size(0)):
            found = x if found is None else found + x
        assert found is not None
        y: torch.Tensor = self.fc(found)
        return y


class Branching(nn.Module):
    """Control flow that depends on values: no exporter can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 3)."""
        y = self.fc(x)
        if y.sum() > 0:
            return y
        return 2 * y


class Unsupported(nn.Module):
    """An operator that ONNX has no form for."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 8) -> (n, 4)."""
        y = self.fc(x)
        return torch.linalg.eigvals(y[:, :, None] * torch.eye(4)).real


def seeded(factory: type[nn.Module], seed: int = 0, **args: int) -> nn.Module:
    """The model in eval mode with seeded weights; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return factory(**args).eval()


def _statistics(model: nn.Module) -> None:
    """Batch norms as after training: statistics and scales away from their initial 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
