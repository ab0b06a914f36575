"""Variants by graph surgery are what quantize.static makes with the same layers in `keep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quant_lab import ORT, Bench, artifact, attention, convnet, images, outputs, tokens

from optimizer.explain import grafting, taps_onnx
from optimizer.explain.variants_onnx import OnnxVariants

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "convnet": (convnet, images, {}),
    "with norms": (lambda: convnet(norm=True), images, {}),
    "attention": (attention, tokens, {"model": "cnn", "constant_weights_only": False}),
}


def variants(bench: Bench, case: str) -> tuple[Any, Any, OnnxVariants]:
    build, data, options = CASES[case]
    source = artifact(build(), bench.root / "float")
    found = bench.static(source, data=data(), **options)
    return source, found, OnnxVariants(found, source, "onnxruntime", {"threads": 1}, data(4).feeds, 1)


@pytest.mark.parametrize("case", CASES)
def test_every_single_layer_in_float_is_as_if_quantized_with_keep(case: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    _, data, options = CASES[case]
    source, found, all_of_them = variants(bench, case)
    feeds = data(8).feeds
    changed = 0
    for layer in all_of_them.layers:
        expected = outputs(bench.static(source, data=data(), keep=[layer.name], **options), feeds)
        with all_of_them.real({layer.name}) as session:
            real = session(feeds)
        switched = all_of_them.session({layer.name})(feeds)
        # Behind a lookup that is kept, readers get a grid of their own; the surgery has only that of the table.
        exact, near = (0.1, 0.1) if layer.op == "Gather" else (0.0, 1e-5)
        for name, value in expected.items():
            assert np.abs(real[name] - value).max() <= exact, f"{layer.name}: the same graph, in the same kernels"
            assert np.abs(switched[name] - value).max() < near, layer.name
            changed += bool(np.abs(value - outputs(found, feeds)[name]).max() > 1e-4)
    assert changed >= 3, "some layers must matter, or this test shows nothing"


def test_with_no_layer_kept_it_is_the_candidate_and_with_all_the_float_model(tmp_path: Path) -> None:
    source, found, all_of_them = variants(Bench(tmp_path), "with norms")
    feeds = images(4).feeds
    every = {layer.name for layer in all_of_them.layers}
    with all_of_them.real(set()) as session:
        assert np.array_equal(session(feeds)["logits"], outputs(found, feeds)["logits"])
    assert np.allclose(all_of_them.session(every)(feeds)["logits"], outputs(source, feeds)["logits"], atol=1e-5)


def test_a_shared_tensor_stays_rounded_until_every_layer_that_asks_for_it_is_kept(tmp_path: Path) -> None:
    source, found, _ = variants(Bench(tmp_path), "convnet")
    model = taps_onnx.candidate(found)
    other = taps_onnx.reference(source, model)
    plan = grafting.plan(model, other, taps_onnx.paired(model, other), ORT)
    shared = next(i for i, pair in enumerate(plan.pairs) if pair.tensor == "r1" and not pair.constant)
    assert plan.pairs[shared].askers == {"node_conv1", "node_conv2", "add"}
    assert shared in plan.active({"node_conv1", "node_conv2"})
    assert shared not in plan.active({"node_conv1", "node_conv2", "add"})
    assert plan.lost == 0


def test_a_bystander_is_no_layer(tmp_path: Path) -> None:
    *_, all_of_them = variants(Bench(tmp_path), "attention")
    assert [layer.name for layer in all_of_them.layers] == ["embed", "query", "key", "score", "mix", "out"]
    assert [layer.name for layer in all_of_them.layers if not layer.weights] == ["score", "mix"]
    assert {layer.name: layer.macs for layer in all_of_them.layers}["query"] == 4 * 5 * 8 * 8


def test_scales_may_be_constant_nodes_and_nodes_may_have_other_names(tmp_path: Path) -> None:
    """As other quantizers write it."""
    import onnx

    bench = Bench(tmp_path)
    source = artifact(convnet(), tmp_path / "float")
    found = bench.static(source)
    model = onnx.load(found.path / "model.onnx")
    scales = [t for t in model.graph.initializer if t.name.endswith(("_scale", "_zero_point"))]
    for tensor in scales:
        model.graph.initializer.remove(tensor)
        node = onnx.helper.make_node("Constant", [], [tensor.name], name=tensor.name)
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
        model.graph.node.insert(0, node)
    for node in model.graph.node:
        node.name = f"renamed_{node.name}"
    foreign = artifact(model, tmp_path / "foreign")
    every = OnnxVariants(foreign, source, "onnxruntime", {"threads": 1}, images(4).feeds, 1)
    assert [layer.name for layer in every.layers] == ["node_conv1", "node_conv2", "add", "pool", "head"]
    assert every.notes == ()
    expected = outputs(foreign, images(4).feeds)["logits"]
    assert np.abs(every.session(set())(images(4).feeds)["logits"] - expected).max() < 1e-5


def test_norms_that_another_quantizer_left_alone_are_not_folded_in_the_baseline_either(tmp_path: Path) -> None:
    import onnx
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        def __init__(self) -> None:
            self.rows = iter([{"image": row[None]} for row in images(8).feeds["image"]])

        def get_next(self) -> Any:
            return next(self.rows, None)

    source = artifact(convnet(norm=True), tmp_path / "float")
    quantization.quantize_static(str(source.path / "model.onnx"), str(tmp_path / "q.onnx"), Reader())
    foreign = artifact(onnx.load(tmp_path / "q.onnx"), tmp_path / "foreign")
    feeds = images(4).feeds
    both = taps_onnx.Tapping(foreign, source, 1)
    by_name = {tap.name: tap for tap in both.taps}
    assert by_name["c1"].against == "c1"
    assert by_name["r1"].op == "BatchNormalization" and by_name["r1"].against == "b1", "the Relu was merged"
    ours, theirs = both.run(feeds, both.taps)
    assert np.abs(ours["c1"] - theirs["c1"]).max() < 0.1 * np.abs(theirs["c1"]).max()
    every = OnnxVariants(foreign, source, "onnxruntime", {"threads": 1}, feeds, 1)
    kept = {layer.name for layer in every.layers}
    assert np.allclose(every.session(kept)(feeds)["logits"], outputs(source, feeds)["logits"], atol=0.02)
