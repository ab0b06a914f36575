"""Engines really built, on a machine without a GPU, by TensorRT-RTX: what is in them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quant_lab as lab
from engine_lab import NEEDED, Built, node_model, pair
from onnx import TensorProto, helper

from optimizer import formats
from optimizer.errors import OptimizerError
from optimizer.formats.tensorrt import build, facts, layers
from optimizer.passes import half
from optimizer.protocols import Context
from optimizer.targets import tensorrt_rtx as rtx
from optimizer.values import Artifact

pytestmark = NEEDED
OF = "convolutions and matrix products"


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path)


def test_an_engine_keeps_its_signature_its_source_and_its_facts(built: Built) -> None:
    source = built.artifact(lab.convnet())
    found = built(source, batches=(1, 8))
    assert found.signature == source.signature
    assert {p.name for p in found.path.iterdir()} == {"model.plan", "engine.json", "build.log", "layers.json", "onnx"}
    assert (found.path / "onnx/model.onnx").read_bytes() == (source.path / "model.onnx").read_bytes()
    assert found.size == (found.path / "model.plan").stat().st_size
    told = facts.load(found.path)
    assert told.flavour == "tensorrt-rtx"
    assert told.built_on is None
    assert told.capabilities == ("8.0", "8.6", "8.9", "12.0")
    assert told.newer
    assert [dict(p.ranges) for p in told.ranges()] == [{"batch": (1, 1, 1)}, {"batch": (2, 8, 8)}]
    assert "Engine generation completed" in (found.path / "build.log").read_text()
    assert built.notes["profiles"] == ["batch 1..1 (tuned for 1)", "batch 2..8 (tuned for 8)"]
    assert built.notes["precision"] == "float32"


def test_a_graph_of_fixed_shapes_needs_no_profile(built: Built) -> None:
    assert facts.load(built(lab.convnet(batch=2)).path).profiles == ()


def test_named_compute_capabilities_are_built_for_and_no_newer_ones(built: Built) -> None:
    told = facts.load(built(lab.convnet(), batches=(4,), capabilities=("8.6", "12.0")).path)
    assert (told.capabilities, told.newer) == (("8.6", "12.0"), False)


@pytest.mark.parametrize(("dtype", "name"), [("int8", "int8"), ("fp8", "fp8")])
def test_pairs_become_kernels_in_8_bits(built: Built, dtype: str, name: str) -> None:
    source = lab.Bench(built.root).static(built.artifact(lab.convnet()), rtx.SCHEME, dtype=dtype)
    found = built(source, batches=(8,))
    rows = layers.load(found.path)
    # Two convolutions; the product of 8 by 4 may end in a generated kernel.
    assert layers.counts(rows)[name] >= 2
    assert layers.describe(rows).startswith(f"{name} (")
    assert all({"node_conv1"} <= set(row.nodes) for row in rows if row.name.startswith("node_conv1"))
    assert facts.load(found.path).quantized == 3
    assert facts.load(found.path).precision() == f"{name} (3 of 3 {OF}), float32 elsewhere (typed)"
    assert rtx.built_as(found) == built.notes["precision"]
    # Those without the type are left out by the library without a word, so the facts must not claim them.
    assert facts.load(found.path).capabilities == (("8.9", "12.0") if dtype == "fp8" else rtx.FLAVOUR.usual)


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_half_is_typed_by_the_graph(built: Built, dtype: str, name: str) -> None:
    source = built.artifact(lab.convnet())
    out = built.root / "half"
    out.mkdir()
    half.run(source, half.Options.model_validate({"dtype": dtype}), Context(scheme=rtx.SCHEME), out)
    narrow = Artifact("onnx", out, "k", "d", formats.read("onnx", out), 1)
    found = built(narrow, batches=(8,))
    assert {spec.dtype for spec in found.signature.inputs} == {"float32"}
    assert set(layers.counts(layers.load(found.path))) == {name}
    assert rtx.built_as(found) == name
    assert rtx.limit(narrow) > rtx.limit(source)


def test_pairs_that_a_gpu_does_not_multiply_in_8_bits_are_told(built: Built) -> None:
    """Turing has no such convolutions in TensorRT-RTX 1.7: they run in float16, their pairs as kernels beside them."""
    bench = lab.Bench(built.root)
    mixed = bench.run(half, bench.static(built.artifact(lab.convnet()), rtx.SCHEME), rtx.SCHEME)
    built(mixed, batches=(8,), capabilities=("8.9",))
    assert built.notes["products"]["int8"] >= 2 and built.warnings == []
    built(mixed, batches=(8,), capabilities=("7.5",))
    counts = built.notes["products"]
    narrow, total = counts.get("int8", 0), sum(counts.values())
    assert narrow < total / 2 and counts["float16"] == total - narrow
    assert built.warnings == [
        f"for compute capability 7.5, {narrow} of {total} {OF} multiply in 8 bits, though 3 of 3 in the graph have "
        "Q/DQ pairs; the others run in float16, where pairs cost time and gain none"
    ]


def test_only_what_has_pairs_can_miss_its_8_bits(built: Built) -> None:
    told = facts.load(built(lab.convnet(), batches=(8,)).path)
    assert built.warnings == [] and told.quantized == 0
    wide, narrow = (layers.EngineLayer("a", "gemm", (name,), ("float32",), ()) for name in ("float16", "int8"))
    some = told.model_copy(update={"quantized": 2, "products": 4, "capabilities": ("8.0",), "newer": True})
    assert build.wide(some, [wide, wide, wide, narrow]) is None, "half of what has pairs"
    caution = build.wide(some, [wide] * 5 + [narrow])
    assert caution and caution.startswith(
        "for compute capability 8.0 and newer, 1 of 6 convolutions and matrix products"
    )
    assert build.wide(some, []) is None, "layers that are not known say nothing"


def test_tokens_in_64_bits_and_two_free_dimensions(built: Built) -> None:
    found = built(lab.attention(), batches=(2, 4))
    assert [spec.dtype for spec in found.signature.inputs] == ["int64"]
    assert len(facts.load(found.path).profiles) == 2


def test_weights_in_the_2_to_4_pattern_are_noticed(built: Built) -> None:
    model = lab.convnet()
    for tensor in model.graph.initializer:
        if tensor.name == "conv2.weight":
            values = np.frombuffer(tensor.raw_data, np.float32).reshape(8, 8, 3, 3).copy()
            values[:, [0, 1, 4, 5]] = 0
            tensor.raw_data = values.tobytes()
    found = built(model, batches=(8,))
    assert facts.load(found.path).sparse == ("node_conv2",)
    assert built.notes["sparse"] == ["node_conv2"]
    assert facts.load(built(lab.convnet(), batches=(8,)).path).sparse == ()


def test_options_reach_the_builder(built: Built) -> None:
    found = built(lab.convnet(), batches=(4,), tf32=True, weight_streaming=True, level=1, workspace=64)
    told = facts.load(found.path)
    assert (told.tf32, told.weight_streaming) == (True, True)
    assert told.options["level"] == 1
    assert told.options["workspace"] == 64
    assert "plugins" not in told.options


def test_what_the_builder_refuses_names_the_layer(built: Built) -> None:
    with pytest.raises(OptimizerError, match=r"'head' for Turing \(SM75\): FP32 GEMM is not supported") as caught:
        built(lab.convnet(), batches=(4,), capabilities=("7.5",))
    assert "half" in str(caught.value.hint)


def test_a_build_that_failed_leaves_nothing_to_the_next(built: Built) -> None:
    """TensorRT-RTX 1.7.1 would compile the next one for Turing, too."""
    bench = lab.Bench(built.root)
    int8 = bench.static(built.artifact(lab.convnet()), rtx.SCHEME)
    mixed = bench.run(half, int8, rtx.SCHEME)
    for _ in range(2):
        with pytest.raises(OptimizerError, match=r"Turing \(SM75\)"):
            built(int8, batches=(8,), capabilities=("7.5",))
        built(mixed, batches=(8,), capabilities=("8.9",))
        assert set(built.notes["products"]) == {"int8"} and built.warnings == []


def test_refit_needs_a_gpu_while_it_is_built(built: Built) -> None:
    if rtx.pending(rtx.Options()) is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(OptimizerError, match="can be refitted only on a GPU"):
        built(lab.convnet(), batches=(4,), refit=True)


CASES: dict[str, tuple[Any, str, str]] = {
    "zero-point": (
        pair(zero=3), r"misread the model: QuantizeLinear 'quantize': its zero point is 3, it", "quantize.static",
    ),
    "uint8": (
        pair(kind=np.uint8),
        r"QuantizeLinear 'quantize': it is of type uint8, which would be read as int8 and cut off above 127",
        "quantize.static",
    ),
    "operator": (
        node_model("Det", {"x": ["n", 4, 4]}, {"y": ["n"]}),
        r"Det 'the_det': there is no such operator",
        "write the model without it",
    ),
    "float64": (
        node_model("Neg", {"x": ["n", 4]}, {"y": ["n", 4]}, TensorProto.DOUBLE),
        r"'x' is float64, for which TensorRT-RTX has no type",
        "export the model with float32",
    ),
    "uint64": (
        node_model("Add", {"x": ["n", 4]}, {"y": ["n", 4]}, TensorProto.UINT64, c=np.array([2**63 + 5], np.uint64)),
        r"Add 'the_add': its constant 'c' is uint64, a type that the parser does not know",
        "int64, int32",
    ),
    "index": (
        node_model("Gather", {"x": [8, 4]}, {"y": [2, 4]}, i=np.array([1, 2**40])),
        r"Gather 'the_gather': its index 1099511627776 lies outside axis 0 of 'x', which has 8; TensorRT does not",
        "-N to N-1",
    ),
    "plugin": (
        lab.model(
            [helper.make_node("NonZero", ["x"], ["y"], name="find")], {"x": ["n", 4]}, {"y": [2, "k"]}, [],
            kinds={"y": TensorProto.INT64},
        ),
        r"NonZero 'find': .*not found in plugin registry",
        "option plugins",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused_is_named_by_its_node_with_a_way_out(built: Built, name: str) -> None:
    model, message, hint = CASES[name]
    with pytest.raises(OptimizerError, match=message) as caught:
        built(model, batches=(4,))
    assert hint in str(caught.value.hint)
    assert "Assertion failed" not in caught.value.message


def test_a_refused_node_says_where_it_comes_from(built: Built) -> None:
    model = node_model("Det", {"x": ["n", 4, 4]}, {"y": ["n"]})
    notes = {
        "pkg.torch.onnx.name_scopes": "['', 'model.head', 'model.head.det', 'det']",
        "pkg.torch.onnx.stack_trace": 'File "/home/me/net.py", line 7, in forward\n  return torch.det(x)',
    }
    for key, value in notes.items():
        model.graph.node[0].metadata_props.add(key=key, value=value)
    with pytest.raises(OptimizerError, match=r"Det 'the_det' \(module model\.head\.det, net\.py, line 7\)"):
        built(model)


def test_form_for_onnx_runtime_is_refused_and_the_own_form_is_not(built: Built) -> None:
    source = built.artifact(lab.convnet())
    foreign = lab.Bench(built.root).static(source, lab.ORT)
    with pytest.raises(OptimizerError, match=r"misread the model: .*a bias in int32.*; and 6 more"):
        built(foreign, batches=(4,))
    built(lab.Bench(built.root / "own").static(source, rtx.SCHEME), batches=(4,))


def test_a_free_dimension_without_a_range_is_asked_for(built: Built) -> None:
    model = node_model("Relu", {"x": ["batch", "sequence"]}, {"y": ["batch", "sequence"]})
    with pytest.raises(OptimizerError, match="nothing says how large 'sequence' can be") as caught:
        built(model, batches=(4,))
    assert "dims: {sequence: [1, 32, 128]}" in str(caught.value.hint)
    assert not list((built.root / "engine1").iterdir())
    built(model, batches=(4,), dims={"sequence": (1, 8, 16)})


def test_samples_that_the_engine_could_not_run_are_refused_when_it_is_built(built: Built) -> None:
    feeds = {"image": np.zeros((9, 3, 8, 8), np.float32)}
    with pytest.raises(OptimizerError, match="batch is 9, the engine was built for 1 to 8") as caught:
        built(lab.convnet(), samples=(feeds,), batches=(1, 8))
    assert "{batch: [1, 1, 9]}" in str(caught.value.hint)


def test_a_flag_that_a_version_lacks_is_named(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_rtx as trt

    class Flags:
        TF32 = trt.BuilderFlag.TF32
        REFIT = trt.BuilderFlag.REFIT
        SPARSE_WEIGHTS = trt.BuilderFlag.SPARSE_WEIGHTS
        VERSION_COMPATIBLE = trt.BuilderFlag.VERSION_COMPATIBLE

    monkeypatch.setattr(trt, "BuilderFlag", Flags)
    built(lab.convnet(), batches=(4,))
    with pytest.raises(OptimizerError, match="has no builder flag WEIGHT_STREAMING"):
        built(lab.convnet(), batches=(4,), weight_streaming=True)


def test_a_truncated_or_altered_engine_is_refused(built: Built) -> None:
    found = built(lab.convnet(), batches=(4,))
    plan = found.path / "model.plan"
    whole = plan.read_bytes()
    plan.write_bytes(whole[:-100])
    with pytest.raises(OptimizerError, match=r"model\.plan is truncated: it has"):
        formats.read("tensorrt-rtx", found.path)
    plan.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(OptimizerError, match=r"model\.plan is altered"):
        formats.read("tensorrt-rtx", found.path)
    plan.unlink()
    with pytest.raises(OptimizerError, match="no such engine"):
        formats.read("tensorrt-rtx", found.path)


def test_an_engine_is_not_opened_without_a_gpu_and_says_why(built: Built) -> None:
    if rtx.pending(rtx.Options()) is None:
        pytest.skip("this machine has a GPU that runs it")
    found = built(lab.convnet(), batches=(4,))
    with (
        pytest.raises(OptimizerError, match="the engine cannot run here: TensorRT-RTX runs on an NVIDIA GPU"),
        rtx.open(found, rtx.Options()),
    ):
        pass


def test_facts_that_are_missing_or_from_another_time_are_named(built: Built) -> None:
    found = built(lab.convnet(), batches=(4,))
    file = found.path / "engine.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "schema": 9}))
    with pytest.raises(OptimizerError, match="schema 9 is unknown"):
        facts.load(found.path)
    file.write_text("{")
    with pytest.raises(OptimizerError, match="is not JSON"):
        facts.load(found.path)
    file.unlink()
    with pytest.raises(OptimizerError, match="facts are missing"):
        facts.load(found.path)


def test_two_builds_in_a_process_keep_their_logs_apart(built: Built) -> None:
    first = built(lab.convnet(), batches=(4,))
    second = built(lab.attention(), batches=(4,))
    names = [{row.name for row in layers.load(a.path)} for a in (first, second)]
    assert not names[0] & names[1]
