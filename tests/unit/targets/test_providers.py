"""ONNX Runtime's GPU providers as options of its target: what is missing is named, nothing runs on the CPU in silence.

There is no GPU where these tests run. What ONNX Runtime does without one is real, and so are profiles, of which kernels
are then said to have run elsewhere; for a provider that works, a session on the CPU stands in.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import quant_lab as lab
import yaml

from optimizer import cli, cuda, machine
from optimizer.bundle.manifest import decode
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import providers
from optimizer.inspection import read_run
from optimizer.targets import onnxruntime as target

ADA = cuda.Gpu(0, "Ada card", "8.9", 24_000_000_000, 2_500_000, 10_000_000)
HOPPER = cuda.Gpu(0, "Hopper card", "9.0", 80_000_000_000, 1_900_000, 2_600_000)


def having(monkeypatch: pytest.MonkeyPatch, *gpus: cuda.Gpu, installed: tuple[str, ...] = ()) -> None:
    """A machine with these GPUs, a driver, and these distributions beside the real ones."""
    monkeypatch.setattr(cuda, "survey", lambda: cuda.Survey(gpus, "580.65.06, CUDA 13.0", None))
    real, gone = machine.exactly, {"onnxruntime"} if "onnxruntime-gpu" in installed else set()
    monkeypatch.setattr(
        machine, "exactly", lambda name: "1.31.1" if name in installed else None if name in gone else real(name)
    )


@pytest.mark.parametrize("provider", sorted(providers.PROVIDERS))
def test_a_machine_without_a_driver_is_told_apart_from_one_without_the_library(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "survey", lambda: cuda.Survey((), None, "this machine has no NVIDIA driver; install one"))
    reason = target.pending(target.Options(provider=provider))
    assert reason and "runs on an NVIDIA GPU: this machine has no NVIDIA driver; install one" in reason
    having(monkeypatch, ADA)
    reason = target.pending(target.Options(provider=provider))
    assert reason == f"the {providers.PROVIDERS[provider].title} provider is not installed; " + (
        "pip install onnxruntime-ep-nv-tensorrt-rtx"
        if provider == "tensorrt-rtx"
        else "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
    )


def test_a_gpu_that_does_not_exist_and_one_that_the_library_has_no_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, HOPPER, installed=("onnxruntime-gpu",))
    assert target.pending(target.Options(provider="cuda")) is None
    assert target.pending(target.Options(provider="cuda", device=2)) == (
        "there is no GPU 2; this machine has 1, counted from 0"
    )
    reason = target.pending(target.Options(provider="tensorrt-rtx"))
    assert reason and "does not run on Hopper card (compute capability 9.0)" in reason and "provider: cuda" in reason
    assert target.pending(target.Options()) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tf32": True}, "'tf32' is for a GPU: name its provider too"),
        ({"device": 1}, "'device' is for a GPU"),
        ({"cpu_fallback": False}, "'cpu_fallback' is for a GPU"),
        ({"provider": "tensorrt", "tf32": True}, "'tf32' is for provider: cuda, this is provider: tensorrt"),
        ({"provider": "rocm"}, "Input should be 'cpu', 'cuda', 'tensorrt' or 'tensorrt-rtx'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target.Options(**given)
    assert target.Options(device=0, tf32=False).provider == "cpu"  # a manifest names every option


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_model_that_would_silently_run_on_the_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, ADA, installed=("onnxruntime-gpu",))
    found = lab.artifact(lab.convnet(), tmp_path / "m")
    with pytest.raises(OptimizerError, match="could not load its CUDA provider") as caught:
        target.loaded(found.path, target.Options(provider="cuda"), lambda settings: None)
    assert "would have run on the CPU" in caught.value.message
    assert caught.value.hint and "cuDNN" in caught.value.hint


def test_a_provider_library_that_cannot_be_loaded_is_named_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    having(monkeypatch, ADA)
    brought = SimpleNamespace(get_library_path=lambda: str(tmp_path / "provider.so"), __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", brought)
    found = lab.artifact(lab.convnet(), tmp_path / "m")
    with pytest.raises(OptimizerError, match=r"TensorRT-RTX provider: .*provider\.so.*No such file"):
        target.loaded(found.path, target.Options(provider="tensorrt-rtx"), lambda settings: None)


def test_engines_may_use_the_types_of_the_graph_and_no_others() -> None:
    def options(name: str, types: str, tf32: bool = False) -> list[tuple[str, dict[str, str]]]:
        return providers._options(providers.Wanted(name, 1, tf32, True), types)

    (cuda_name, on_cuda), *rest = options("cuda", "float32")
    assert (cuda_name, on_cuda, rest) == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"}, [])
    assert options("cuda", "float32", tf32=True)[0][1]["use_tf32"] == "1"
    (_, plain), (after, _) = options("tensorrt", "float32")
    assert after == "CUDAExecutionProvider"
    assert not {"trt_fp16_enable", "trt_bf16_enable", "trt_int8_enable"} & set(plain)
    mixed = options("tensorrt", "int8, float16 elsewhere")[0][1]
    assert (mixed["trt_fp16_enable"], mixed["trt_int8_enable"], "trt_bf16_enable" in mixed) == ("1", "1", False)
    assert "trt_fp16_enable" not in options("tensorrt", "bfloat16")[0][1]


def events(path: Path, moved: dict[str, str]) -> list[dict[str, Any]]:
    """The profile of a real session, with kernels of some operators said to have run on another provider."""
    session = onnx_format.inference_session(path, 1, configure=lambda s: _profiled(s, path))
    session.run(None, dict(lab.images(2).feeds))
    found = json.loads(Path(session.end_profiling()).read_bytes())
    for event in found:
        arguments = event.get("args", {})
        if arguments.get("op_name") in moved:
            arguments["provider"] = moved[arguments["op_name"]]
    return list(found)


def _profiled(settings: Any, path: Path) -> None:
    settings.enable_profiling = True
    settings.profile_file_prefix = str(path / "profile")


def test_kernels_that_were_left_to_the_cpu_are_counted_by_operator(tmp_path: Path) -> None:
    found = lab.artifact(lab.convnet(), tmp_path / "m")
    plain = events(found.path, {})
    ops = [e["args"]["op_name"] for e in plain if e.get("name", "").endswith(providers.KERNEL)]
    everything = dict.fromkeys(ops, "CUDAExecutionProvider")
    assert providers.placed("cuda", events(found.path, everything)) == "on CUDA"
    one = ops[-1]
    some = events(found.path, {**everything, one: providers.CPU})
    total = len({e["args"]["node_index"] for e in some if e.get("name", "").endswith(providers.KERNEL)})
    count = len({e["args"]["node_index"] for e in some if e.get("args", {}).get("op_name") == one})
    assert providers.placed("cuda", some) == f"on CUDA; {count} of {total} kernels on the CPU ({count} {one})"
    copy = {"name": "x_kernel_time", "args": {"op_name": "MemcpyToHost", "node_index": "999", "provider": "x"}}
    assert providers.placed("cuda", [*some, copy]).endswith(f"({count} {one}); 1 copy between devices")
    left = providers.placed("tensorrt", events(found.path, everything))
    assert left.startswith(f"on TensorRT; {total} of {total} kernels on CUDA (")


def test_the_types_of_a_graph_in_words(tmp_path: Path) -> None:
    plain = lab.artifact(lab.convnet(), tmp_path / "m")
    assert onnx_format.typed(plain.path) == "float32"
    assert target.built_as(plain) == "float32"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The same model on the CPU and, as a variant, by the CUDA provider."""
    lab.write_labelled(tmp_path)
    document = {
        "schema": 1,
        "name": "gpu",
        "model": {"file": "net.onnx"},
        "data": {"evaluate": {"source": {"npz": {"path": "data.npz"}}, "label": "label"}},
        "variants": {"cpu": [], "gpu": {"onnxruntime": {"steps": [], "options": {"provider": "cuda"}}}},
        "targets": ["onnxruntime"],
        "baseline": "cpu",
        "measure": {"metrics": ["top1"], "latency": False},
        "gates": ["top1 drop <= 50pp"],
        "bundle": "all",
    }
    path = tmp_path / "gpu.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_variant_for_a_gpu_is_built_here_and_waits_while_the_others_are_measured(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if cuda.survey().reason is None:
        pytest.skip("there is an NVIDIA driver here")
    out = recipe.parent / "out"
    assert cli.main(["build", str(recipe), "--out", str(out)]) == 4
    assert "ONNX Runtime's CUDA provider runs on an NVIDIA GPU" in capsys.readouterr().out
    run, _ = read_run(out)
    waiting = {c.name: c.pending for c in run.candidates}
    assert waiting["cpu@onnxruntime"] is None and waiting["gpu@onnxruntime"]
    assert {m.subject for m in run.measurements if m.metric == "top1"} == {"cpu@onnxruntime"}
    folder = out / "bundles/gpu-gpu-onnxruntime"
    manifest = decode((folder / "manifest.json").read_bytes(), "manifest.json")
    assert (manifest.pending, manifest.tolerance) == (waiting["gpu@onnxruntime"], 1e-3)
    assert (manifest.runtime.distribution, manifest.runtime.precision) == ("onnxruntime-gpu", "float32")
    assert "pip install numpy onnxruntime-gpu" in (folder / "README.md").read_text()
    assert "onnxruntime-gpu (" in (folder / "run.py").read_text()
    assert cli.main(["measure", str(folder), "--out", str(recipe.parent / "measured")]) == 2
    assert "runs on an NVIDIA GPU" in capsys.readouterr().err
    assert cli.main(["rebuild", str(folder), "--out", str(recipe.parent / "again")]) == 2
    assert "built for no machine in particular" in capsys.readouterr().err


@pytest.mark.parametrize("right", [True, False])
def test_what_runs_on_a_gpu_is_compared_with_the_cpu_though_the_files_are_equal(
    right: bool, recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    having(monkeypatch, ADA, installed=("onnxruntime-gpu",))
    wrong = lab.artifact(lab.convnet(norm=True), recipe.parent / "wrong")

    def on_the_cpu(wanted: Any, types: str, open: Any, configure: Any) -> Any:
        return open(configure=configure) if right else _session_of(wrong.path, configure)

    monkeypatch.setattr(providers, "session", on_the_cpu)
    out = recipe.parent / "out"
    assert cli.main(["build", str(recipe), "--out", str(out)]) == (0 if right else 2)
    if not right:
        assert "gpu@onnxruntime" in capsys.readouterr().err
        return
    run, _ = read_run(out)
    gpu = next(c for c in run.candidates if c.name == "gpu@onnxruntime")
    assert gpu.pending is None and gpu.precision and " on CUDA; " in gpu.precision
    check = next(step.check for step in run.steps if step.key == gpu.steps[-1])
    assert check and check.limit == 1e-3 and not check.reason


def _session_of(path: Path, configure: Any) -> Any:
    return onnx_format.inference_session(path, 1, configure=configure)


def test_a_graph_is_quantized_for_its_provider(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = yaml.safe_load(recipe.read_text())
    document["data"]["calibrate"] = document["data"]["evaluate"]

    def variant(provider: str, *steps: str) -> dict[str, Any]:
        return {"onnxruntime": {"steps": list(steps), "options": {"provider": provider}}}

    plain = document["variants"]
    for step, reason in (("static", "static int8; leave this step out"), ("dynamic", "dynamically quantized products")):
        document["variants"] = plain | {"bad": variant("cuda", f"quantize.{step}")}
        recipe.write_text(yaml.safe_dump(document))
        assert cli.main(["plan", str(recipe)]) == 2
        assert f"CUDA provider has no kernels for {reason}" in capsys.readouterr().err
    document["variants"] = plain | {
        "engine": variant("tensorrt", "quantize.static"),
        "mixed": variant("tensorrt-rtx", "quantize.static", "half"),
    }
    recipe.write_text(yaml.safe_dump(document))
    assert cli.main(["build", str(recipe), "--out", str(recipe.parent / "out"), "--inconclusive", "pass"]) == 0
    for name, floats in (("engine", "float32"), ("mixed", "float16")):
        path = recipe.parent / f"out/bundles/gpu-{name}-onnxruntime/model"
        model = onnx_format.load(path)
        zeros = [t for node in model.graph.node if node.op_type == "QuantizeLinear" for t in node.input[2:]]
        kinds = {t.data_type for t in model.graph.initializer if t.name in zeros}
        assert kinds == {onnx.TensorProto.INT8}, "TensorRT reads uint8 as int8 and takes no zero points"
        assert onnx_format.typed(path) == f"int8, {floats} elsewhere"
