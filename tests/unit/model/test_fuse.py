"""fuse: fewer and faster kernels with the same results, as much of it as holds, and nothing for who fuses alone."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import onnx_ir
import pytest
from conftest import Bench, artifact, compare, run_onnx

from optimizer import samples
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.passes import fuse, quantize_dynamic
from optimizer.targets import onnxruntime as ort_target
from optimizer.targets import openvino as openvino_target
from optimizer.values import Artifact, Check

INPUTS = {"x": "float32[batch,sequence,32]", "attention_mask": "int64[batch,sequence]"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Artifact:
    """Exported once: passes read their source and leave it alone."""
    bench = Bench(tmp_path_factory.mktemp("encoder"))
    return bench.export(bench.model("Encoder", inputs=INPUTS))


def fused(bench, source: Artifact, scheme=ort_target.SCHEME, **given) -> Artifact:
    feeds, options, out = samples.made(source.signature, 0).feeds, fuse.Options(**given), bench.folder()

    def check(path: Path) -> Check:
        return compare(lambda sample: run_onnx(source.path, sample), path, feeds, options.tolerance)

    fuse.run(source, options, dataclasses.replace(bench.context(feeds, check), scheme=scheme), out)
    assert check(out).outcome == "pass"
    return artifact("onnx", out)


def operators(found: Artifact) -> Counter[str]:
    return Counter(node.op_type for node in onnx_format.load(found.path).graph.node)


def kernels(found: Artifact, folder: Path) -> Counter[str]:
    """The operators that are left once ONNX Runtime has rewritten the graph itself."""

    def configure(settings) -> None:
        settings.optimized_model_filepath = str(folder / "optimized.onnx")

    onnx_format.inference_session(found.path, 1, "extended", configure=configure)
    import onnx

    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def test_each_layer_is_one_attention_and_its_norms_stay_apart_from_their_sums(bench, source, tmp_path):
    found = fused(bench, source)
    counts = operators(found)
    assert {n: counts[n] for n in ("MultiHeadAttention", "Gelu", "Sum", "LayerNormalization", "Softmax", "MatMul")} == {
        "MultiHeadAttention": 2, "Gelu": 2, "Sum": 4, "LayerNormalization": 4, "Softmax": 0, "MatMul": 12
    }  # fmt: skip
    assert bench.notes["fused"] == {"MultiHeadAttention": 2, "Gelu": 2, "Sum + LayerNormalization": 4}
    assert found.signature == source.signature and not bench.warnings
    # The reason for Sum: what the runtime makes of Add + LayerNormalization.
    assert kernels(source, tmp_path)["SkipLayerNormalization"] == 4
    assert kernels(found, tmp_path)["SkipLayerNormalization"] == 0


def test_the_options_choose(bench, source):
    assert operators(fused(bench, source, normalization="skip"))["SkipLayerNormalization"] == 4
    only = operators(fused(bench, source, groups=["gelu"], approximate_gelu=True))
    assert only["FastGelu"] == 2 and only["Softmax"] == 2 and only["Sum"] == 0


def test_unread_outputs_of_a_fused_operator_are_not_written(bench, source):
    found = onnx_format.load(fused(bench, source, normalization="skip").path).graph
    read = {name for node in found.node for name in node.input} | {value.name for value in found.output}
    assert all(name in read for node in found.node if node.domain for name in node.output if name)


def test_the_products_are_there_for_the_next_step(bench, source):
    found = fused(bench, source)
    out = bench.folder()
    context = dataclasses.replace(bench.context(), scheme=ort_target.SCHEME)
    quantize_dynamic.run(found, quantize_dynamic.Options(), context, out)
    assert bench.notes["quantized"] == {"MatMulInteger": 12}
    feeds = samples.made(source.signature, 0).feeds
    assert compare(lambda sample: run_onnx(source.path, sample), out, feeds, 0.1).outcome == "pass"


def test_a_target_that_fuses_itself_gets_the_very_files(bench, source):
    found = fused(bench, source, openvino_target.SCHEME)
    assert (found.path / "model.onnx").samefile(source.path / "model.onnx")
    assert "openvino fuses" in bench.notes["left alone"]
    assert fuse.scheme_tools(openvino_target.SCHEME) == ()


def test_a_fusion_that_changes_results_is_taken_back_alone(bench, source, monkeypatch):
    honest = fuse._rewrite

    def spoils(model, groups, options):
        honest(model, groups, options)
        for node in model.graph:
            if node.op_type == "MultiHeadAttention":
                node.attributes["num_heads"] = onnx_ir.AttrInt64("num_heads", 2)

    monkeypatch.setattr(fuse, "_rewrite", spoils)
    found = fused(bench, source)
    assert operators(found)["MultiHeadAttention"] == 0 and operators(found)["Gelu"] == 2
    assert len(bench.warnings) == 1 and "attention" in bench.warnings[0]


def test_a_library_that_fails_leaves_the_source(bench, source, monkeypatch):
    def fails(model, groups, options):
        raise IndexError("list index out of range")

    monkeypatch.setattr(fuse, "_rewrite", fails)
    found = fused(bench, source)
    assert (found.path / "model.onnx").samefile(source.path / "model.onnx")
    assert len(bench.warnings) == 2 and "IndexError: list index out of range" in bench.warnings[0]


def test_a_model_with_nothing_to_fuse_says_so(bench):
    source = bench.export(bench.model("ConvNet", inputs={"image": "float32[batch,3,8,8]"}))
    fused(bench, source)
    assert "nothing to fuse" in bench.warnings[0]


def test_an_unknown_group_is_refused():
    from optimizer import schema

    with pytest.raises(OptimizerError, match="groups"):
        schema.parse(fuse.Options, {"groups": ["conv"]}, "step 'fuse'", Path())
