"""A trained torch artifact: the user's files, and weights of its own beside the record."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from optimizer import disk, formats
from optimizer.errors import OptimizerError
from optimizer.formats import torch as torch_format
from optimizer.formats.record import Record
from optimizer.values import Signature, TensorSpec

CODE = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.norm(self.embed(ids)))
"""
IDS = {"ids": np.array([1, 2, 3, 6])}


@pytest.fixture
def loaded(tmp_path: Path) -> Path:
    """An artifact as `load` writes it."""
    (tmp_path / "net.py").write_text(CODE)
    signature = Signature((TensorSpec("ids", "int64", ("batch",)),), (TensorSpec("scores", "float32", ("batch", 7)),))
    record = Record(signature, entry=f"{tmp_path / 'net.py'}:Tied")
    record = dataclasses.replace(record, digests=torch_format.digests(record))
    folder = tmp_path / "loaded"
    folder.mkdir()
    torch_format.write(record, folder)
    return folder


@pytest.fixture
def trained(loaded: Path, tmp_path: Path) -> Path:
    """The same with other weights."""
    model = torch_format.open_model(loaded)
    with torch.no_grad():
        model.module.embed.weight.mul_(3)
        model.module.norm.running_mean.fill_(0.5)
    folder = tmp_path / "trained"
    folder.mkdir()
    torch_format.write_trained(model.record, model.module, folder)
    return folder


def test_trained_weights_are_loaded_and_ties_hold(loaded: Path, trained: Path) -> None:
    before, after = torch_format.open_model(loaded), torch_format.open_model(trained)
    assert torch.equal(after.module.embed.weight, 3 * before.module.embed.weight)
    assert after.module.head.weight is after.module.embed.weight
    assert float(after.module.norm.running_mean[0]) == 0.5
    assert not np.allclose(before(IDS)["scores"], after(IDS)["scores"])


def test_a_tied_weight_is_stored_once_and_everything_counts_it(trained: Path) -> None:
    from safetensors.numpy import load_file

    assert sorted(load_file(trained / "trained.safetensors")) == [
        "embed.weight", "norm.bias", "norm.num_batches_tracked", "norm.running_mean", "norm.running_var", "norm.weight",
    ]  # fmt: skip
    assert [p.name for p in torch_format.files(trained)][:2] == ["module.json", "trained.safetensors"]
    assert formats.read("torch", trained).outputs[0].shape == ("batch", 7)
    assert formats.size("torch", trained) == torch_format.load_record(trained).bytes > 0


def test_it_is_trained_again_on_top(trained: Path, tmp_path: Path) -> None:
    model = torch_format.open_model(trained)
    with torch.no_grad():
        model.module.embed.weight.zero_()
    (tmp_path / "again").mkdir()
    torch_format.write_trained(model.record, model.module, tmp_path / "again")
    assert not torch_format.open_model(tmp_path / "again").module.embed.weight.any()


def test_it_is_handed_on_whole(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "on").mkdir()
    formats.hand_on("torch", trained, tmp_path / "on")
    assert disk.same_files(trained, tmp_path / "on")
    shutil.rmtree(trained)
    assert torch_format.open_model(tmp_path / "on")(IDS)["scores"].shape == (4, 7)


def test_altered_or_lost_weights_are_noticed(trained: Path) -> None:
    file = trained / "trained.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(OptimizerError, match=r"trained.safetensors has changed"):
        torch_format.open_model(trained)
    file.unlink()
    with pytest.raises(OptimizerError, match="is gone"):
        formats.read("torch", trained)
    assert torch_format.moved(trained)


def test_the_users_code_is_still_looked_at(trained: Path, tmp_path: Path) -> None:
    assert not torch_format.moved(trained)
    (tmp_path / "net.py").write_text(CODE + "# other\n")
    with pytest.raises(OptimizerError, match=r"net.py has changed"):
        torch_format.open_model(trained)


def test_weights_that_are_no_numbers_are_not_written(loaded: Path, tmp_path: Path) -> None:
    model = torch_format.open_model(loaded)
    with torch.no_grad():
        model.module.embed.weight[0, 0] = float("nan")
    (tmp_path / "bad").mkdir()
    with pytest.raises(OptimizerError, match=r"NaN or infinity: embed.weight"):
        torch_format.write_trained(model.record, model.module, tmp_path / "bad")
    assert not list((tmp_path / "bad").iterdir())
