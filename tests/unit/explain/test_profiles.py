"""Profiles of real sessions: kernels joined to the graph, their kinds, what they multiply, what was not fused."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from explain_lab import compared, here
from quant_lab import OPENVINO, Bench, artifact, attention, convnet, images, lowered, tokens

from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain import profile_onnx, profile_openvino, roofline, slow
from optimizer.explain.kernels import Kernel, Profiled
from optimizer.passes import quantize_static
from optimizer.registry import load
from optimizer.store import Store
from optimizer.values import Profile

SILENT = Console(level=0, err=io.StringIO())
PEAKS = {"f32": 50.0, "int8": 200.0, "bf16": 100.0, "memory": 20.0}
# Of convnet at batch 2: two convolutions of 8x8 pixels, and the head.
MACS = 2 * (64 * 8 * 27 + 64 * 8 * 72 + 32)


@pytest.fixture(autouse=True)
def _peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_measured", lambda threads: {"peaks": PEAKS, "methods": {}, "busy": False})


def profiled(found: Any, target: str, store: Store, feeds: Any) -> Profile:
    return slow.profile(compared(found, None, target), feeds, store, SILENT, 0.2)


def test_onnxruntime_int8(tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path)
    found = profiled(bench.static(artifact(convnet(), tmp_path / "m")), "onnxruntime", store, images(2).feeds)
    by_op = {op.op: op for op in found.ops}
    assert by_op["QLinearConv"].kind == "quantized" and by_op["QLinearConv"].dtype == "int8"
    assert by_op["QuantizeLinear"].kind == "convert"
    assert by_op["Transpose"].kind == "layout", "ONNX Runtime put it in"
    assert sum(op.macs or 0 for op in found.ops) == MACS, "the weights' shapes come from the optimized graph"
    assert sum(op.share for op in found.ops) == pytest.approx(1)
    assert sum(found.shares.values()) == pytest.approx(1) and found.shares["quantized"] > 0
    assert all(op.of_peak is None or 0 < op.of_peak <= 1 for op in found.ops)
    assert by_op["QLinearConv"].bytes and by_op["QLinearConv"].bound
    assert found.at["batch"] == 2 and found.at["threads"] == 1 and found.at["inferences"] >= 5
    assert any("at the border of the graph" in line for line in found.findings)
    assert [op.ms for op in found.ops] == sorted((op.ms for op in found.ops), reverse=True)


def test_onnxruntime_float(tmp_path: Path, store: Store) -> None:
    found = profiled(artifact(convnet(), tmp_path / "m"), "onnxruntime", store, images(2).feeds)
    assert "quantized" not in found.shares and sum(op.macs or 0 for op in found.ops) == MACS
    assert {op.dtype for op in found.ops if op.macs} == {"float32"}
    assert not any("int8" in line for line in found.findings)


def test_pairs_that_cannot_fuse_are_named_with_what_prevents_it(tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path)
    rounded = bench.static(
        artifact(attention(), tmp_path / "m"), data=tokens(), model="cnn", constant_weights_only=False
    )
    found = profiled(rounded, "onnxruntime", store, tokens(2).feeds)
    lines = [line for line in found.findings if "unfused" in line]
    assert any("Softmax computes in float; at 'softmax'" in line for line in lines)


def test_a_fallback_to_float_is_counted(tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path)
    found = bench.static(artifact(convnet(), tmp_path / "m"), keep=["node_conv2"])
    lines = profiled(found, "onnxruntime", store, images(2).feeds).findings
    assert any("1 of 3 convolutions and matrix products fell back to float" in line for line in lines)


def test_a_fused_node_covers_the_nodes_that_it_was_made_of(tmp_path: Path) -> None:
    from onnx import helper
    from quant_lab import model

    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], name="add"),
        helper.make_node("Relu", ["a"], ["y"], name="relu"),
    ]
    original = model(nodes, {"x": [2]}, {"y": [2]}, [])
    fused = model([helper.make_node("FusedThing", ["x"], ["y"], name="fused")], {"x": [2]}, {"y": [2]}, [])
    assert set(profile_onnx.covers(original, fused)["fused"]) == {"add", "relu"}


@pytest.mark.parametrize("rounded", [True, False])
def test_openvino(rounded: bool, tmp_path: Path, store: Store) -> None:
    bench = Bench(tmp_path)
    ir = lowered(artifact(convnet(), tmp_path / "m"), tmp_path / "ir")
    found = bench.run(quantize_static, ir, OPENVINO, images()) if rounded else ir
    told = profiled(found, "openvino", store, images(2).feeds)
    products = [op for op in told.ops if op.macs]
    assert sum(op.macs or 0 for op in products) == MACS
    assert {op.kind for op in products} == {"quantized" if rounded else "float"}
    assert all(op.implementation for op in products), "OpenVINO names kernel and ISA"
    assert ("FakeQuantize" in {op.op for op in told.ops}) == rounded
    assert told.ms > 0 and sum(told.shares.values()) == pytest.approx(1)


def test_a_candidate_is_profiled_with_the_options_that_it_was_measured_with(tmp_path: Path) -> None:
    plugin = load("targets", "openvino")
    found, feeds = lowered(artifact(convnet(), tmp_path / "m"), tmp_path / "ir"), images(2).feeds
    shapes = {}
    for most in (0, 8):
        model = profile_openvino.compiled(found, plugin.Options(static_shapes=most), feeds, counters=True)
        shapes[most] = model.inputs[0].get_partial_shape()
    assert shapes[0].is_dynamic
    assert list(shapes[8].to_shape()) == list(next(iter(feeds.values())).shape), "compiled for these inputs alone"
    given: list[Any] = []
    ort = load("targets", "onnxruntime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort.onnx_format, "inference_session", lambda *a, **named: given.append((a, named["disabled"])))
        for finish in (False, True):
            profile_onnx._session(found, ort.Options(finish_quantization=finish, graph_optimization="basic"), None)
    assert [level for (_, _, level), _ in given] == ["basic", "basic"]
    assert given[0][1] and not given[1][1], "what the runtime may still quantize by itself is as it was"


def test_pytorch_has_no_profile() -> None:
    with pytest.raises(OptimizerError, match="pytorch has no kernel profile here"):
        slow.profile(compared(None, None, "pytorch"), {}, None, SILENT, 1)  # type: ignore[arg-type]  # refused before


def test_the_roofline_says_what_limits_a_kernel() -> None:
    peaks = roofline.Peaks(PEAKS, {})

    def kernel(**changes: Any) -> Kernel:
        return dataclasses.replace(Kernel("k", "MatMul", "float", "float32", [2.0], "", 50_000_000, 1000), **changes)

    place = roofline.place(kernel(), peaks)
    assert place and place.bound == "compute" and place.of_peak == pytest.approx(0.5)  # 50 MMAC at 50 GMAC/s: 1 ms
    place = roofline.place(kernel(macs=0, bytes=20_000_000), peaks)
    assert place and place.bound == "memory" and place.of_peak == pytest.approx(0.5)
    place = roofline.place(kernel(dtype="int8"), peaks)
    assert place and place.of_peak == pytest.approx(0.125)
    assert roofline.place(kernel(macs=None), peaks) is None
    assert roofline.place(kernel(times=[0.0]), peaks) is None
    assert roofline.place(kernel(bytes=10**12), peaks).of_peak == 1.0  # type: ignore[union-attr]  # a cache is faster


def test_peaks_are_stored_and_measured_again_only_after_a_busy_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        {"peaks": {"f32": 10.0, "memory": 9.0}, "methods": {"f32": "a", "memory": "a"}, "busy": True},
        {"peaks": {"f32": 20.0, "memory": 8.0}, "methods": {"f32": "b", "memory": "b"}, "busy": False},
    ]
    monkeypatch.setattr(roofline, "_measured", lambda threads: answers.pop(0))
    assert roofline.peaks(store, here(), 1, SILENT).values == {"f32": 10.0, "memory": 9.0}
    for _ in range(2):
        found = roofline.peaks(store, here(), 1, SILENT)
        assert found.values == {"f32": 20.0, "memory": 9.0} and found.methods == {"f32": "b", "memory": "a"}
    assert answers == [] and not found.busy


def test_a_machine_that_is_always_busy_is_not_measured_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def measured(threads: int) -> dict[str, Any]:
        calls.append(threads)
        return {"peaks": PEAKS, "methods": dict.fromkeys(PEAKS, ""), "busy": True}

    monkeypatch.setattr(roofline, "_measured", measured)
    found = [roofline.peaks(store, here(), 1, SILENT) for _ in range(5)][-1]
    assert len(calls) == roofline.TRIES and found.busy
    told = slow.summarized(Profiled((), 1.0, 1.0, 1), found, {"batch": 1, "threads": 1})
    assert slow.BUSY in told.findings


def test_what_lies_between_kernels_is_a_row_of_its_own() -> None:
    kernels = (Kernel("k", "Conv", "float", "float32", [1.0, 1.0, 9.0]),)
    found = slow.summarized(Profiled(kernels, 5.0, 4.0, 3), roofline.Peaks(PEAKS, {}), {"batch": 1, "threads": 1})
    assert [(op.name, op.ms, op.share) for op in found.ops] == [("(between kernels)", 3.0, 0.75), ("k", 1.0, 0.25)]
    assert found.at["overhead"] == pytest.approx(0.25)
