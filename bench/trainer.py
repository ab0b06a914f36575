"""Our training loop against the same steps written by hand: wall time of the same ResNet-20 steps on the same pictures.

Both sides train the same network from the same weights in the same order of examples, with the same optimizer, schedule
and clipping; ours also keeps curves, watches the loss and is ready to go on after a kill (checkpoints as often as it
writes them by itself, once a minute). Pairs of blocks take turns in random order in one process, one before the first
warms up; the figure is the ratio within a pair. Before anything is timed, both must reach the same weights, bit by bit.

    python bench/trainer.py [--rounds 20] [--dry-run]      # needs no data: pictures are made
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

import figures
import numpy as np
import torch
from torch import nn

from optimizer.measure.quantiles import of_restarts
from optimizer.protocols import Batch
from optimizer.training import descent, devices
from optimizer.training.feeder import Feeder
from optimizer.training.loop import train
from optimizer.training.settings import Settings
from optimizer.training.values import TensorBatch

sys.path.insert(0, str(figures.ROOT / "examples" / "cifar"))
from model import resnet20

PICTURES, SEED = 2560, 0
SETTINGS = Settings(
    steps=20, batch=64, lr=0.01, optimizer="sgd", weight_decay=5e-4, warmup=0.1, clip=5.0, validation=0.0, device="cpu"
)


class Pictures:
    """Made pictures with made labels, as a data set keeps them once they are decoded."""

    name = "made"

    def __init__(self) -> None:
        rng = np.random.default_rng(SEED)
        self.images = rng.standard_normal((PICTURES, 3, 32, 32), np.float32)
        self.labels = rng.integers(0, 10, PICTURES)

    def __len__(self) -> int:
        return PICTURES

    def at(self, places: np.ndarray) -> Batch:
        return Batch({"image": self.images[places]}, self.labels[places], places)


def ours(data: Pictures, weights: dict[str, torch.Tensor]) -> tuple[float, nn.Module]:
    """Seconds of `train`, and what it made."""

    def loss(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.labels is not None
        return nn.functional.cross_entropy(module(batch.feeds["image"]), batch.labels), {}

    net = fresh(weights)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        train(net, loss, data, SETTINGS, seed=SEED, work=Path(folder))
        return time.perf_counter() - start, net


def by_hand(data: Pictures, weights: dict[str, torch.Tensor]) -> tuple[float, nn.Module]:
    """Seconds of the loop that everybody writes, and what it made."""
    net = fresh(weights)
    order = order_of(data)
    start = time.perf_counter()
    net.train()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": SETTINGS.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=SETTINGS.lr, momentum=SETTINGS.momentum, nesterov=True)
    total, curve = len(order), []
    for step, places in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = descent.rate(step, total, SETTINGS)
        image, label = torch.from_numpy(data.images[places]), torch.from_numpy(data.labels[places])
        optimizer.zero_grad()
        with devices.autocast(SETTINGS, image.device):
            value = nn.functional.cross_entropy(net(image), label)
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), SETTINGS.clip)
        optimizer.step()
        curve.append(value.item())
    net.eval()
    return time.perf_counter() - start, net


def fresh(weights: dict[str, torch.Tensor]) -> nn.Module:
    net = resnet20()
    net.load_state_dict(weights)
    return net


def order_of(data: Pictures) -> list[np.ndarray]:
    """The places that our loop draws, step by step."""
    feeder = Feeder(data, np.arange(len(data)), SETTINGS, SEED)
    return [batch.indices for batch in feeder.batches(0, feeder.steps(), devices.device(SETTINGS))]


def refuse_difference(one: nn.Module, other: nn.Module) -> None:
    """End where the two sides do not do the same."""
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    apart = [name for (name, a), b in pairs if not torch.equal(a, b)]
    if apart:
        sys.exit(f"both sides must do the same steps, but these weights differ: {', '.join(apart[:5])}")


def main() -> None:
    given = figures.arguments(str(__doc__).splitlines()[0], rounds=20)
    torch.manual_seed(SEED)
    data, weights = Pictures(), resnet20().state_dict()
    order, ratios = random.Random(0), []
    for number in range(given.rounds + 1):
        sides = [ours, by_hand]
        order.shuffle(sides)
        found = {side: side(data, weights) for side in sides}
        if number == 0:
            refuse_difference(found[ours][1], found[by_hand][1])
            continue
        ratios.append(found[ours][0] / found[by_hand][0])
        print(f"{number}: ours {found[ours][0]:.3f} s, by hand {found[by_hand][0]:.3f} s", file=sys.stderr)
    figures.publish([figures.figure("trainer.overhead", of_restarts(ratios), given.rounds, "x")], given.dry_run)


if __name__ == "__main__":
    main()
