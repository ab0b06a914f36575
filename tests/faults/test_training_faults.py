"""A training that is killed or interrupted goes on from its checkpoint to the bits that it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import optc

from optimizer.store import Store

# The model stops at its 20th forward in training while the file `slow` lies beside it, so that a test can strike there.
CODE = """
import pathlib, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3)
        self.calls = 0

    def forward(self, x):
        slow = pathlib.Path(__file__).with_name("slow")
        self.calls += self.training
        if self.calls == 20 and slow.exists():
            pathlib.Path(__file__).with_name("reached").touch()
            time.sleep(120)
        return self.last(self.drop(torch.relu(self.first(x))))
"""
RECIPE = """
schema: 1
model: {entry: "net.py:Net", inputs: {x: "float32[batch,8]"}}
data: {train: {source: {npz: {path: train.npz}}, label: y}}
variants: {tuned: [{finetune: {epochs: 4, batch: 16, checkpoint: 7, ema: 0.9}}]}
targets: [pytorch]
measure: {metrics: [], latency: false}
"""
BUILD = ("build", "recipe.yaml", "--out", "out", "--store")
OPTC = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from optimizer.cli import main
sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "train.npz", x=rng.standard_normal((240, 8)).astype(np.float32), y=rng.integers(0, 3, 240))
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def start(folder: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPTC, *BUILD, str(store)]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def trained(store: Path) -> bytes:
    entry = next(e for e in Store.open(store).entries() if e.use == "finetune")
    return (entry.path / "trained.safetensors").read_bytes()


def strike(folder: Path, store: Path, how: signal.Signals) -> int:
    """Start a build, wait until it is in the middle of the training, and send a signal; its exit code."""
    (folder / "reached").unlink(missing_ok=True)
    process = start(folder, store)
    deadline = time.monotonic() + 60
    while not (folder / "reached").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, how)
    process.communicate(timeout=60)
    return int(process.returncode)


def test_training_that_is_interrupted_and_killed_ends_in_the_same_bits(folder: Path) -> None:
    torch.set_num_threads(1)
    whole, struck = folder / "store-a", folder / "store-b"
    first = optc(folder, *BUILD, str(whole))
    assert first.returncode == 0, first.stderr
    (folder / "slow").touch()
    assert strike(folder, struck, signal.SIGINT) == 130
    assert strike(folder, struck, signal.SIGKILL) == -signal.SIGKILL
    left = Store.open(struck)
    assert not [e for e in left.entries() if e.use == "finetune"], "nothing is half-written"
    (key,) = left.unfinished()
    assert (left.work(key) / "checkpoint.pt").is_file()
    (folder / "slow").unlink()
    again = optc(folder, *BUILD, str(struck))
    assert again.returncode == 0, again.stderr
    assert trained(struck) == trained(whole)
    assert not left.unfinished()
