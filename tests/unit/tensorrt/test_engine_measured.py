"""An engine from the build without a GPU to its measured bundle on a machine that has one, for which a stand-in acts.

The model doubles its input, and so does the stand-in's engine: what TensorRT-RTX would compute is not tested here, but
everything around it is: what waits, where it fits, what it is compared with, what the bundle says afterwards.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import quant_lab as lab
import yaml
from engine_lab import ADA, H100, NEEDED, machine_with
from gpu_stand_in import LIBRARY, Cuda, Engine
from onnx import helper

from optimizer import cli, machine
from optimizer.bundle.manifest import Manifest, decode
from optimizer.formats.tensorrt import device, session
from optimizer.formats.tensorrt import flavour as flavours

pytestmark = NEEDED


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The archive of a pending bundle, built here."""
    double = [helper.make_node("Add", ["x", "x"], ["y"], name="double")]
    onnx.save(lab.model(double, {"x": ["batch", 4]}, {"y": ["batch", 4]}, []), tmp_path / "double.onnx")
    random = np.random.default_rng(1)
    np.savez(tmp_path / "d.npz", x=random.standard_normal((40, 4)).astype(np.float32), label=np.arange(40) % 4)
    document = {
        "schema": 1,
        "name": "double",
        "model": {"file": "double.onnx"},
        "data": {"evaluate": {"source": {"npz": {"path": "d.npz"}}, "label": "label"}},
        "variants": {"fp32": []},
        "targets": ["tensorrt-rtx"],
        "measure": {"metrics": ["top1"], "latency": False, "batch": 16},
        "gates": ["top1 >= 0%"],
        "bundle": "all",
    }
    (tmp_path / "double.yaml").write_text(yaml.safe_dump(document))
    assert cli.main(["build", str(tmp_path / "double.yaml"), "--out", str(tmp_path / "out")]) == 4
    return tmp_path / "out/bundles/double-fp32-tensorrt-rtx.tar.gz"


@pytest.fixture
def gpu(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    """A machine with a GPU that TensorRT-RTX knows, once the bundle was built on one without."""
    real, cuda = flavours.library(flavours.RTX), Cuda()
    versions = machine.version_of
    opened = SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(cuda, (1, 16)))
    fake = SimpleNamespace(**vars(LIBRARY), __version__=real.__version__, __name__=real.__name__)
    fake.Runtime = lambda logger: opened
    machine_with(monkeypatch, ADA)
    monkeypatch.setattr(machine, "version_of", lambda name: "13.0" if name == "cuda-bindings" else versions(name))
    monkeypatch.setattr(device, "runtime", lambda: cuda)
    monkeypatch.setattr(flavours, "library", lambda flavour: fake)
    machine.here.cache_clear()
    yield cuda
    machine.here.cache_clear()


def manifest(folder: Path) -> Manifest:
    return decode((folder / "manifest.json").read_bytes(), "manifest.json")


def measure(bundle: Path, out: Path) -> int:
    data = ["--data", str(bundle.parents[2] / "d.npz"), "--label", "label"]
    return cli.main(["measure", str(bundle), *data, "--out", str(out)])


def test_a_bundle_is_completed_where_its_engine_runs(bundle: Path, gpu: Cuda, tmp_path: Path) -> None:
    before = manifest(bundle.with_name("double-fp32-tensorrt-rtx"))
    assert before.pending is not None
    assert measure(bundle, tmp_path / "measured") == 0
    after = manifest(tmp_path / "measured/bundles/double-fp32-tensorrt-rtx")
    assert after.pending is None
    assert {m.metric for m in after.measurements} == {"top1", "size"}
    assert [v.outcome for v in after.verdicts] == ["pass"]
    assert after.runtime.precision == "float32"
    record = json.loads((tmp_path / "measured/run.json").read_text())
    assert "NVIDIA RTX 4090" in record["machine"]["accelerators"][0]
    assert record["tools"]["tensorrt-rtx-cu13"] == before.runtime.version
    assert gpu.memory == {}
    assert gpu.streams == 0


def test_compiled_kernels_are_kept_in_the_store(bundle: Path, gpu: Cuda, tmp_path: Path) -> None:
    measure(bundle, tmp_path / "measured")
    kept = list((tmp_path / "store/caches").glob("tensorrt-rtx-*.jit"))
    assert [path.read_bytes() for path in kept] == [b"kernels"]


def test_an_engine_for_other_gpus_is_refused_and_rebuilt(
    bundle: Path, gpu: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("OPTC_STORE", str(tmp_path / "store"))
    assert cli.main(["rebuild", str(bundle), "--set", "capabilities=['12.0']", "--out", str(tmp_path / "new")]) == 0
    told = manifest(tmp_path / "new/double-fp32-tensorrt-rtx")
    assert told.pending == "it was built again and has not been measured since"
    assert told.runtime.options["capabilities"] == ["12.0"]
    facts = json.loads((tmp_path / "new/double-fp32-tensorrt-rtx/model/engine.json").read_text())
    assert facts["capabilities"] == ["12.0"]
    capsys.readouterr()
    assert cli.main(["rebuild", str(bundle), "--set", "capabilities=['9.0']"]) == 2
    assert "runtime.options" in capsys.readouterr().err
    assert cli.main(["rebuild", str(bundle), "--set", "capabilities"]) == 2
    assert "no option with a value" in capsys.readouterr().err


def test_what_does_not_fit_is_named_before_the_library_sees_it(
    bundle: Path, gpu: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine_with(monkeypatch, H100)
    assert measure(bundle, tmp_path / "m") == 2
    assert "TensorRT-RTX does not run on NVIDIA H100 (compute capability 9.0)" in capsys.readouterr().err
    machine_with(monkeypatch, ADA)
    newer = SimpleNamespace(**{**vars(flavours.library(flavours.RTX)), "__version__": "9.9"})
    monkeypatch.setattr(flavours, "library", lambda flavour: newer)
    assert measure(bundle, tmp_path / "m") == 2
    told = capsys.readouterr().err
    assert "does not run here: it was built by TensorRT-RTX 1." in told
    assert "9.9 is installed" in told
    assert "optc rebuild" in told
    assert not (tmp_path / "m").exists()


def test_an_engine_that_computes_something_else_is_found_out(
    bundle: Path, gpu: Cuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = session.Running.__call__

    def wrong(self: Any, feeds: Any) -> Any:
        return {name: array + 1 for name, array in real(self, feeds).items()}

    monkeypatch.setattr(session.Running, "__call__", wrong)
    assert measure(bundle, tmp_path / "m") == 2
    assert "its samples do not give the packed outputs here" in capsys.readouterr().err


def test_run_py_runs_the_samples_without_optc(
    bundle: Path, gpu: Cuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundle.with_name("double-fp32-tensorrt-rtx")
    text = (folder / "run.py").read_text()
    assert "Needs Python, numpy and tensorrt-rtx-cu13, cuda-bindings" in text
    facts = json.loads((folder / "model/engine.json").read_text())
    library = ModuleType("tensorrt_rtx")
    vars(library).update(vars(LIBRARY), __version__=facts["version"])
    vars(library).update(Logger=SimpleNamespace(ERROR=1), Runtime=flavours.library(flavours.RTX).Runtime)
    library.Logger = lambda level: None  # type: ignore[attr-defined]
    library.Logger.ERROR = 1  # type: ignore[attr-defined]
    parts = {"tensorrt_rtx": library, "cuda": ModuleType("cuda"), "cuda.bindings": ModuleType("cuda.bindings")}
    parts["cuda.bindings"].runtime = gpu  # type: ignore[attr-defined]
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("bundle_run", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    model = run.load()
    assert run.run_samples(model)
    assert "ok" in capsys.readouterr().out
    with pytest.raises(ValueError, match="lie outside what the engine was built for"):
        model({"x": np.zeros((17, 4), np.float32)})
    library.__version__ = "0.1"  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"0\.1 is installed: optc rebuild"):
        run.load()
