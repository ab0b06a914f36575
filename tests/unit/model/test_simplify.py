"""Simplify: smaller and equal, or the source itself with a warning."""

from __future__ import annotations

import models
import onnxslim
import pytest
import torch
from conftest import artifact, compare, run_onnx

from optimizer import samples
from optimizer.formats import onnx as onnx_format
from optimizer.passes import simplify
from optimizer.values import Artifact, Check

TOKENS = {"input_ids": "int64[batch,sequence]", "attention_mask": "int64[batch,sequence]"}


@pytest.fixture
def source(bench) -> Artifact:
    return bench.export(bench.model("TokenEncoder", inputs=TOKENS, dims={"sequence": [1, 64]}), exporter="torchscript")


def simplified(bench, source: Artifact) -> Artifact:
    feeds = samples.made(source.signature, 0).feeds

    def check(path) -> Check:
        return compare(lambda sample: run_onnx(source.path, sample), path, feeds, simplify.LIMIT)

    out = bench.folder()
    simplify.run(source, simplify.Options(), bench.context(feeds, check), out)
    assert check(out).outcome == "pass"
    return artifact("onnx", out)


def test_fewer_nodes_under_the_same_names(bench, source):
    found = simplified(bench, source)
    assert bench.notes["nodes"]["after"] < bench.notes["nodes"]["before"]
    assert found.signature == source.signature and not bench.warnings


def test_a_result_that_differs_is_taken_back(bench, source, monkeypatch):
    honest = onnxslim.slim

    def spoils(model, **options):
        model = honest(model, **options)
        weight = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        weight.raw_data = bytes(len(weight.raw_data))
        return model

    monkeypatch.setattr(onnxslim, "slim", spoils)
    found = simplified(bench, source)
    assert (found.path / "model.onnx").read_bytes() == (source.path / "model.onnx").read_bytes()
    assert bench.notes["rolled_back"] in bench.warnings[0]


def test_a_library_that_fails_is_taken_back(bench, source, monkeypatch):
    def fails(model, **options):
        raise IndexError("list index out of range")

    monkeypatch.setattr(onnxslim, "slim", fails)
    found = simplified(bench, source)
    assert (found.path / "model.onnx").read_bytes() == (source.path / "model.onnx").read_bytes()
    assert "IndexError: list index out of range" in bench.notes["rolled_back"]


def test_a_scripted_loop_that_onnxslim_trips_over_is_kept_as_it_is(bench, tmp_path):
    torch.jit.script(models.seeded(models.AddsUp)).save(tmp_path / "sum.pt")
    found = bench.export(bench.load(file=str(tmp_path / "sum.pt"), inputs={"x": "float32[batch,8]"}))
    assert simplified(bench, found).signature == found.signature
    assert "simplification was taken back: onnxslim" in bench.warnings[0]


def test_external_data_goes_through_and_back(bench, monkeypatch):
    monkeypatch.setattr(onnx_format, "EXTERNAL_ABOVE", 1000)
    source = bench.export(bench.model("ConvNet", inputs={"image": "float32[batch,3,16,16]"}))
    names = ["model.onnx", "model.onnx.data"]
    assert sorted(p.name for p in simplified(bench, source).path.iterdir()) == names

    def fails(model, **options):
        raise ValueError("no")

    monkeypatch.setattr(onnxslim, "slim", fails)
    assert sorted(p.name for p in simplified(bench, source).path.iterdir()) == names
