"""The eager target: the oracle of every check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import MLP, seeded

from optimizer import cuda
from optimizer.errors import OptimizerError
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.torch import TorchModel
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


def test_a_compiled_module_gives_what_the_eager_one_gives(source, monkeypatch):
    real, modes = torch.compile, []
    # Dynamo captures the graph as always; the C++ compiler behind it would take half a minute.
    monkeypatch.setattr(
        torch, "compile", lambda module, mode: modes.append(mode) or real(module, backend="aot_eager", dynamic=True)
    )
    options = pytorch.Options(compile="reduce-overhead")
    with pytorch.open(source, pytorch.Options()) as eager, pytorch.open(source, options) as session:
        assert session.precision == "float32 (torch.compile, reduce-overhead)"
        for batch in (3, 5):
            feeds = synthetic_feeds(source.signature, {"batch": batch}, 0)
            np.testing.assert_allclose(session(feeds)["output"], eager(feeds)["output"], rtol=1e-5, atol=1e-6)
    assert modes == ["reduce-overhead"]
    assert pytorch.away(source, options) == 1e-4 and pytorch.away(source, pytorch.Options()) is None


@pytest.mark.slow
def test_the_real_compiler_of_torch_agrees(source):
    feeds = synthetic_feeds(source.signature, {"batch": 3}, 0)
    with (
        pytorch.open(source, pytorch.Options()) as eager,
        pytorch.open(source, pytorch.Options(compile="default")) as it,
    ):
        np.testing.assert_allclose(it(feeds)["output"], eager(feeds)["output"], rtol=1e-5, atol=1e-6)


def test_a_gpu_that_is_not_here_is_waited_for(source, monkeypatch):
    options = pytorch.Options(device="cuda")
    assert pytorch.pending(pytorch.Options()) is None
    monkeypatch.setattr(cuda, "survey", lambda: cuda.Survey((), None, "this machine has no NVIDIA driver; install one"))
    assert (
        pytorch.pending(options)
        == "PyTorch on CUDA runs on an NVIDIA GPU: this machine has no NVIDIA driver; install one"
    )
    with pytest.raises(OptimizerError, match="cannot run here: PyTorch on CUDA"), pytorch.open(source, options):
        pass
    assert pytorch.built_as(source) == "float32"
    gpu = cuda.Gpu(0, "Ada card", "8.9", 24_000_000_000, 2_500_000, 10_000_000)
    monkeypatch.setattr(cuda, "survey", lambda: cuda.Survey((gpu,), "580.65.06, CUDA 13.0", None))
    monkeypatch.setattr(pytorch.machine, "version_of", lambda name: "2.13.0+cpu")
    assert pytorch.pending(options) == (
        "PyTorch 2.13.0+cpu is built for CPUs; install PyTorch for CUDA (pytorch.org says how)"
    )
    monkeypatch.setattr(pytorch.machine, "version_of", lambda name: "2.13.0+cu130")
    assert pytorch.pending(options) is None
    assert pytorch.runs_on(options)["gpu"] == "Ada card" and pytorch.runs_on(pytorch.Options()) == {}


def rounds() -> tuple[bool, bool]:
    """Whether convolutions and products on CUDA may round to TF32, in this process."""
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, False), (False, True)], ids=["as-torch-sets-it", "the-other-way"])
def before(request):
    """What the process is set to, restored afterwards."""
    found = rounds()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = found


def test_on_cuda_tf32_is_off_unless_it_is_asked_for(source, before, monkeypatch):
    """The switch is the same without a GPU; only that the module goes there is left out."""
    monkeypatch.setattr(pytorch, "pending", lambda options: None)
    monkeypatch.setattr(TorchModel, "on", lambda model, device: model)
    for wanted in (False, True):
        with pytorch.open(source, pytorch.Options(device="cuda", tf32=wanted)) as session:
            assert rounds() == (wanted, wanted) and session.precision.endswith("on CUDA")
        assert rounds() == before
        options = pytorch.Options(device="cuda", tf32=wanted)
        with pytest.raises(OptimizerError, match="was not given"), pytorch.open(source, options) as session:
            session({})
        assert rounds() == before, "also where a call fails"


def test_a_session_on_the_cpu_leaves_tf32_to_what_runs_beside_it(source, before):
    for wanted in (False, True):
        with pytorch.open(source, pytorch.Options(tf32=wanted)):
            assert rounds() == before
