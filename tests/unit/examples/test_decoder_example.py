"""The small decoder: what it is trained on, what is held out, and that it predicts only from what came before."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from optimizer import content

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
HERE = content.root("examples") / "decoder"


@pytest.fixture(scope="module")
def training() -> Iterator[ModuleType]:
    """examples/decoder/train.py as a module; it is a script with a sibling, so its folder is importable meanwhile."""
    before = sys.modules.pop("model", None)
    sys.path.insert(0, str(HERE))
    try:
        spec = importlib.util.spec_from_file_location("decoder_train", HERE / "train.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(HERE))
        sys.modules.pop("model", None)
        if before is not None:
            sys.modules["model"] = before


def test_the_text_comes_with_python_and_a_tenth_is_held_out(training: ModuleType) -> None:
    texts = training.documents()
    assert len(texts) > 150
    assert len(set(texts)) == len(texts), "no document stands on both sides"
    held_out = training.windows(texts[:: training.HELD_OUT])
    assert held_out.dtype == np.int64
    assert held_out.shape[1] == training.LENGTH
    assert len(held_out) > 300
    assert texts[0].startswith(bytes(held_out[0].astype(np.uint8)).decode()[:60])


def test_the_decoder_sees_no_byte_before_its_turn_and_learns(training: ModuleType) -> None:
    torch.manual_seed(0)
    net = training.Decoder(layers=1, width=32, heads=2).eval()
    rows = torch.from_numpy(training.windows(["abcdefgh" * 200]))[:4]
    with torch.inference_mode():
        whole, part = net(rows), net(rows[:, :50])
    assert whole.shape == (4, training.LENGTH, training.BYTES)
    torch.testing.assert_close(whole[:, :50], part, rtol=1e-4, atol=1e-5)
    before = training.perplexity(net, rows.numpy())
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for _ in range(5):
        loss = training.loss_of(net, rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert training.perplexity(net.eval(), rows.numpy()) < 0.7 * before


def test_its_state_is_saved_without_shared_tensors(training: ModuleType, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    net = training.Decoder(layers=1, width=32, heads=2)
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    net.load_state_dict(load_file(tmp_path / "weights.safetensors"), strict=True)
