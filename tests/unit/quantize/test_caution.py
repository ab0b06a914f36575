"""A quantizer that hardly reaches a model says so, and one that reaches most of it says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from quant_lab import ORT, TENSORRT, Bench, Data, artifact, model, weights

from optimizer.formats import onnx as onnx_format
from optimizer.passes import quantize_dynamic, quantize_static


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def recurrent(hidden: int, width: int) -> object:
    """A GRU with `hidden` values, whose weights no step touches, in front of a product that is `width` wide."""
    nodes = [
        helper.make_node("GRU", ["x", "w", "r"], ["", "h"], name="rnn", hidden_size=hidden),
        helper.make_node("Squeeze", ["h", "axes"], ["s"], name="squeeze"),
        helper.make_node("MatMul", ["s", "m"], ["y"], name="head"),
    ]
    random = np.random.default_rng(0)
    tensors = weights(
        w=random.standard_normal((1, 3 * hidden, 8)).astype("float32"),
        r=random.standard_normal((1, 3 * hidden, hidden)).astype("float32"),
        m=random.standard_normal((hidden, width)).astype("float32"),
        axes=np.array([0], dtype="int64"),
    )
    return model(nodes, {"x": [5, "n", 8]}, {"y": ["n", width]}, tensors)


@pytest.mark.parametrize("step", [quantize_static, quantize_dynamic])
@pytest.mark.parametrize(("width", "told"), [(4, True), (4000, False)])
def test_weights_that_stay_in_float_are_told_with_who_reads_them(
    step: object, width: int, told: bool, bench: Bench
) -> None:
    source = artifact(recurrent(16, width), bench.root / "m")
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 32, 8)).astype("float32")}
    bench.run(step, source, ORT, Data(feeds))
    found = [text for text in bench.warnings if "in 8 bits; most of the others are read by GRU" in text]
    assert bool(found) is told


def test_float_weights_behind_pairs_count_as_integers(bench: Bench) -> None:
    source = artifact(recurrent(4, 4000), bench.root / "m")
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 32, 8)).astype("float32")}
    found = bench.run(quantize_static, source, TENSORRT, Data(feeds))
    assert onnx_format.quantized(found.path)
    assert not [text for text in bench.warnings if "in 8 bits" in text]
