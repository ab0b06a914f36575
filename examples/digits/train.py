"""Make examples/digits from scratch: the data files and the weights.

    python examples/digits/train.py

Needs scikit-learn (for its bundled digits), pillow, torch and safetensors; no network. On one machine the
result is the same bytes at every run: one thread, fixed seeds, deterministic kernels. Another CPU may sum in
another order, so its weights differ in the last digits.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from model import DigitsNet
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).resolve().parent
SIDE = 32
TRAIN_PER_CLASS = 79  # 790 to train on; the other 1,007 are the test set, large so that gates can resolve 1 pp
MEAN, STD = 0.3, 0.35  # about those of the training images after / 255; rounded, they go into the data card
EPOCHS, BATCH, PEAK_RATE, SEED = 60, 64, 4e-3, 0


def main() -> None:
    """Write train.npz, test.npz and weights.safetensors beside this file, and print the test accuracy."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    images, labels = upsampled_digits()
    train, test = split(labels)
    for name, rows in (("train", train), ("test", test)):
        np.savez_compressed(HERE / f"{name}.npz", image=images[rows], label=labels[rows])
    started = time.monotonic()
    net = fit(to_tensor(images[train]), torch.from_numpy(labels[train]))
    save_file(net.state_dict(), HERE / "weights.safetensors")
    for name, rows in (("train", train), ("test", test)):
        share = accuracy(net, to_tensor(images[rows]), torch.from_numpy(labels[rows]))
        print(f"{name}: {len(rows)} images, top-1 {100 * share:.2f} %")
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, trained in {time.monotonic() - started:.0f} s")


def upsampled_digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 digits: uint8 images (n, 32, 32, 1), upsampled from 8x8, and int64 labels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    small = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for i in small]
    return np.stack(large)[..., None], bunch.target.astype(np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled row numbers of the training and the test set; the training set has equally many of each class."""
    order = np.random.default_rng(SEED).permutation(len(labels))
    chosen = [order[labels[order] == digit][:TRAIN_PER_CLASS] for digit in range(10)]
    is_train = np.isin(order, np.concatenate(chosen))
    return order[is_train], order[~is_train]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, 32, 32, 1) -> normalized float32 (n, 1, 32, 32), as calibration/digits.yaml does it."""
    scaled = images.astype(np.float32).transpose(0, 3, 1, 2) / 255
    return torch.from_numpy((scaled - np.float32(MEAN)) / np.float32(STD))


def fit(images: torch.Tensor, labels: torch.Tensor) -> DigitsNet:
    """Train with AdamW, one cycle, label smoothing and random affine augmentation."""
    net = DigitsNet().train()
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images)).split(BATCH):
            if len(rows) < BATCH:
                continue
            loss = loss_of(net(augment(images[rows])), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def augment(images: torch.Tensor) -> torch.Tensor:
    """Each image turned by up to 12 degrees, scaled by 0.88 to 1.12, sheared and shifted by up to 3 pixels."""
    n = len(images)
    turn = (torch.rand(n) * 2 - 1) * math.radians(12)
    scale = 0.88 + 0.24 * torch.rand(n)
    shear = (torch.rand(n) * 2 - 1) * 0.15
    shift = (torch.rand(n, 2) * 2 - 1) * (2 * 3 / SIDE)
    rows = [torch.cos(turn) * scale, -torch.sin(turn) * scale + shear, shift[:, 0]]
    rows += [torch.sin(turn) * scale, torch.cos(turn) * scale, shift[:, 1]]
    grid = nn.functional.affine_grid(torch.stack(rows, 1).view(n, 2, 3), list(images.shape), align_corners=False)
    # The background is 0 before normalization: shift to it, so that padding with zeros pads with background.
    ground = MEAN / STD
    return nn.functional.grid_sample(images + ground, grid, align_corners=False) - ground


@torch.inference_mode()
def accuracy(net: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images whose highest score is at the label."""
    return float((net(images).argmax(1) == labels).float().mean())


if __name__ == "__main__":
    main()
