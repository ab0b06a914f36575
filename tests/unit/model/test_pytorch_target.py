"""The eager target: the oracle of every check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import MLP, seeded

from optimizer.errors import OptimizerError
from optimizer.formats.feeds import synthetic_feeds
from optimizer.targets import pytorch

VECTOR = {"x": "float32[batch,8]"}


@pytest.fixture
def source(bench, tmp_path):
    torch.save(seeded(MLP).state_dict(), tmp_path / "w.pt")
    return bench.model("MLP", inputs=VECTOR, weights=str(tmp_path / "w.pt"))


def test_a_session_runs_the_module(source):
    feeds = synthetic_feeds(source.signature, {"batch": 3}, 0)
    with pytorch.open(source, pytorch.Options()) as session:
        found = session(feeds)
        assert session.precision == "float32 (eager)" and session.signature == source.signature
    expected = seeded(MLP)(torch.from_numpy(feeds["x"])).detach().numpy()
    np.testing.assert_array_equal(found["output"], expected)


def test_threads_are_set_while_open(source):
    torch.set_num_threads(1)
    with pytorch.open(source, pytorch.Options(threads=2)):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_inputs_that_do_not_fit_are_named(source):
    with pytorch.open(source, pytorch.Options()) as session:
        with pytest.raises(OptimizerError, match=r"'x' is float32\[2, 9\]"):
            session({"x": np.zeros((2, 9), np.float32)})
        with pytest.raises(OptimizerError, match="'x' was not given"):
            session({})
        read_only = np.zeros((2, 8), np.float32)
        read_only.flags.writeable = False
        assert session({"x": read_only})["output"].shape == (2, 3)


def test_compiling_hands_the_artifact_on(bench, source):
    out = bench.folder()
    pytorch.run(source, pytorch.Options(), bench.context(), out)
    assert (out / "module.json").read_bytes() == (source.path / "module.json").read_bytes()


def test_usable_where_torch_is(monkeypatch):
    assert pytorch.probe() is None
    monkeypatch.setattr(pytorch.machine, "version_of", lambda name: None)
    assert "optc[torch]" in pytorch.probe()
