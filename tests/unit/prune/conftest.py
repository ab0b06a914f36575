"""A bench for pruning passes, one thread per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import exporter
import prune_lab
import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _exporter() -> Iterator[None]:
    yield from exporter.read_once()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def bench(tmp_path: Path) -> prune_lab.Bench:
    root = tmp_path / "bench"
    root.mkdir()
    return prune_lab.Bench(root)
