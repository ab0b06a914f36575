"""Train the networks of this folder on CIFAR-10 (JPEG edition) and write their weights beside this file.

    OPTC_DATA=... python examples/mobile/train.py mobile_v2

Needs torch, pyarrow, pillow and safetensors, and `$OPTC_DATA/cifar10/{train,test}.parquet`; about ten minutes on two
cores. Another CPU sums in another order, so its weights differ.
"""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path

import model
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of calibration/cifar10.yaml
EPOCHS, BATCH, PEAK_RATE, DECAY, SEED = 3, 128, 0.2, 2e-4, 0


def main(name: str) -> None:
    """Write `NAME.safetensors`, and print the accuracy on the test images."""
    torch.manual_seed(SEED)
    images, labels = load("train")
    started = time.monotonic()
    net = fit(getattr(model, name)(), images, labels)
    save_file(net.state_dict(), HERE / f"{name}.safetensors")
    print(f"{name}: top-1 {100 * accuracy(net, *load('test')):.2f} % after {time.monotonic() - started:.0f} s")


def load(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 3, 32, 32) as uint8, and labels."""
    from PIL import Image
    from pyarrow import parquet

    table = parquet.read_table(Path(os.environ["OPTC_DATA"]) / "cifar10" / f"{split}.parquet")
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy()), torch.tensor(table["label"].to_pylist())


def normalized(images: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32, as calibration/cifar10.yaml does it."""
    scaled = (images / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return scaled.contiguous(memory_format=torch.channels_last)


def fit(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """SGD with one cycle, flips and crops; normalizations and biases are not decayed."""
    net = net.train().to(memory_format=torch.channels_last)
    plain = [p for p in net.parameters() if p.ndim < 2]
    decayed = [p for p in net.parameters() if p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, PEAK_RATE, momentum=0.9, nesterov=True)
    steps = EPOCHS * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    for epoch in range(EPOCHS):
        started, total = time.monotonic(), 0.0
        for rows in torch.randperm(len(images)).split(BATCH):
            if len(rows) < BATCH:
                continue
            batch = normalized(cropped(padded[rows]))
            loss = nn.functional.cross_entropy(net(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(
            f"epoch {epoch + 1}: loss {total * BATCH / len(images):.3f}, {time.monotonic() - started:.0f} s", flush=True
        )
    return net.eval()


def cropped(padded: torch.Tensor) -> torch.Tensor:
    """Each padded image (n, 3, 40, 40) cut to 32 by 32 at a random place, half of them mirrored."""
    n = len(padded)
    down, right = torch.randint(9, (2, n, 1)) + torch.arange(32)
    right = torch.where(torch.rand(n, 1) < 0.5, right.flip(1), right)
    return padded[torch.arange(n)[:, None, None], :, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


@torch.inference_mode()
def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose highest score is at the label."""
    parts = images.split(500), labels.split(500)
    right = [(net(normalized(i)).argmax(1) == wanted).sum() for i, wanted in zip(*parts, strict=True)]
    return float(sum(right)) / len(images)


if __name__ == "__main__":
    main(sys.argv[1])
