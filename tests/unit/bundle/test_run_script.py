"""run.py: works for an engineer who has numpy and the runtime, and nothing of ours."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import bundle_lab
import numpy as np
import pytest
from bundle_lab import SAMPLES, packed

from optimizer.bundle import runner
from optimizer.bundle.manifest import decode
from optimizer.errors import OptimizerError
from optimizer.formats import providers
from optimizer.values import Setting

# Refuses every import that a machine with numpy and the runtime alone could not answer.
GUARD = """
import sys
ABSENT = {"optimizer", "onnx", "torch", "pydantic", "yaml", "typer", "psutil", "jinja2", "scipy", "sklearn"}
class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"not on this machine: {name}")
sys.meta_path.insert(0, Guard())
sys.dont_write_bytecode = True
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target())
    return packed(tmp_path)[0]


def _python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", GUARD + code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import runpy\nsys.argv = {['run.py', *arguments]!r}\nrunpy.run_path('run.py', run_name='__main__')"
    return _python(code, folder)


def test_runs_the_samples_with_numpy_and_the_runtime_alone(folder: Path) -> None:
    done = _run(folder)
    assert done.returncode == 0, done.stderr
    assert [line.endswith("ok") for line in done.stdout.splitlines()] == [True, True]
    # Altered expectations must be noticed, or "ok" means nothing.
    expected = folder / "samples/1/expected.npz"
    np.savez(expected, logits=np.zeros((5, 3), np.float32))
    done = _run(folder)
    assert done.returncode == 1
    assert "samples/1/inputs.npz" in done.stdout.splitlines()[1]
    assert "DIFFERS" in done.stdout.splitlines()[1]


def test_is_a_usable_example(folder: Path) -> None:
    done = _python(
        "from run import load\nimport numpy as np\nmodel = load()\n"
        "out = model({'image': np.ones((2, 4), np.float32)})\nprint(sorted(out), out['logits'].shape)\n"
        "try:\n    model({'picture': 1})\nexcept ValueError as error:\n    print(error)\n"
        "try:\n    model({'image': np.ones((2, 4))})\nexcept ValueError as error:\n    print(error)\n",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "['logits'] (2, 3)",
        "the model takes the inputs ['image'], given: ['picture']",
        "the input 'image' must be float32, given: float64",
    ]


def test_runs_arrays_from_a_file(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **SAMPLES[1])
    done = _run(folder, "--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "logits: float32[5, 3]\n"
    with np.load(tmp_path / "y.npz") as found, np.load(folder / "samples/1/expected.npz") as expected:
        assert np.allclose(found["logits"], expected["logits"], rtol=1e-5)


def test_wrong_input_is_a_usage_error(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", picture=np.ones(1))
    done = _run(folder, "--input", str(tmp_path / "x.npz"))
    assert done.returncode == 2
    assert "the model takes the inputs ['image'], given: ['picture']" in done.stderr
    assert _run(folder, "--input", "absent.npz").returncode == 2
    assert _run(folder, "--output", "y.npz").returncode == 2


@pytest.mark.parametrize("target", sorted(runner.RUNNERS))
def test_every_runner_imports_only_numpy_and_its_runtime(folder: Path, target: str) -> None:
    manifest = decode((folder / "manifest.json").read_bytes(), "x")
    distribution = runner.RUNNERS[target].distribution
    changed = manifest.model_copy(
        update={"target": target, "runtime": manifest.runtime.model_copy(update={"distribution": distribution})}
    )
    text = runner.script(changed)
    tree = ast.parse(text)
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    own = runner.RUNNERS[target].module or distribution
    more = {"cuda.bindings"} if "cuda-bindings" in runner.RUNNERS[target].needs else set()
    if target == "onnxruntime":  # the library of a provider, where the bundle was measured with it
        more = {need.replace("-", "_") for provider in providers.PROVIDERS.values() for need in provider.needs}
    assert imported - set(sys.stdlib_module_names) == {"numpy", own, *more}
    assert 'outputs = model({"image": image})' in text
    assert "{load}" not in text


def test_the_file_that_the_runtime_opens() -> None:
    assert runner.model_file(["model.onnx", "weights.bin"], "onnxruntime") == "model.onnx"
    assert runner.model_file(["a.onnx", "model.onnx"], "onnxruntime") == "model.onnx"
    assert runner.model_file(["net.xml", "net.bin"], "openvino") == "net.xml"
    with pytest.raises(AssertionError, match="BUG"):
        runner.model_file(["a.bin"], "onnxruntime")


def test_a_target_without_runner_lists_those_that_have_one() -> None:
    with pytest.raises(OptimizerError, match="bundles can be made for onnxruntime, openvino"):
        runner.runner("toaster")


def test_manifest_is_plain_json(folder: Path) -> None:
    assert json.loads((folder / "manifest.json").read_text())["schema"] == 1


def test_opens_with_the_settings_that_did_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle_lab.use_target(monkeypatch, bundle_lab.fake_target())
    made = bundle_lab.artifact(tmp_path / "store")
    best = Setting("fp32@onnxruntime", "throughput", {"threads": 2, "streams": 3}, 8, 5.0, 4.0, 6.0, "1/s")
    other = Setting("int8@onnxruntime", "latency", {"threads": 1}, 1, 5.0, 4.0, 6.0, "ms")
    folder = packed(tmp_path, run=bundle_lab.run(made, settings=(best, other)))[0]
    readme = (folder / "README.md").read_text()
    assert '- `load(objective="throughput")`: threads 2, streams 3, batch 8: 5 1/s (4 to 6); call it from 3' in readme
    assert 'objective="latency"' not in readme
    done = _python("import run; print(run.settings('throughput'), run.settings())", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'threads': 2, 'streams': 3} {'threads': 1}"
    assert _run(folder, "--objective", "throughput").returncode == 0
    refused = _run(folder, "--objective", "latency")
    assert refused.returncode == 2
    assert "no settings are recommended for 'latency'; available: ['throughput']" in refused.stderr


def test_several_threads_may_call_it_from_their_first_call_on(folder: Path) -> None:
    code = (
        "import run, threading, numpy as np\nmodel = run.load()\n"
        "x = {'image': np.zeros((2, 4), np.float32)}\nfound = []\n"
        "ts = [threading.Thread(target=lambda: found.append(model(x)['logits'].shape)) for _ in range(4)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]\nprint(found)"
    )
    assert _python(code, folder).stdout.strip() == str([(2, 3)] * 4)
