"""The digits recipe for TensorRT-RTX by the command line, on a machine without a GPU: built whole, measured later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import optc, shared_store

from optimizer import bundle, schema
from optimizer.formats.tensorrt import facts
from optimizer.targets import tensorrt_rtx as rtx

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    rtx.probe() is not None or rtx.pending(rtx.Options()) is None,
    reason=str(rtx.probe() or "this machine has a GPU: the recipe is measured, tests/slow/test_published.py"),
)

QUICK = """
extends: vision/digits-tensorrt
variants: {fp16: null}
measure: {latency: {batch: [1]}}
"""


def test_engines_are_built_typed_and_packed_and_no_number_is_made_up(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "quick.yaml").write_text(QUICK)
    done = optc(tmp_path, "build", "quick.yaml", "--store", str(shared_store(tmp_path_factory)), "--out", "out")
    assert done.returncode == 4, done.stdout + done.stderr
    run = schema.load_run((tmp_path / "out/run.json").read_bytes(), "run.json")
    assert {m.metric for m in run.measurements} == {"size"}
    precisions = {c.variant: str(c.precision) for c in run.candidates}
    assert precisions["fp32"] == "float32"
    assert precisions["int8"] == "int8 (7 of 7 convolutions and matrix products), float32 elsewhere"
    assert precisions["int8-fp16"].startswith("int8 (7 of 7 convolutions and matrix products)")
    assert "float16" in precisions["int8-fp16"]
    steps = {step.key: step for step in run.steps}
    told = {c.variant: steps[c.steps[-1]].notes for c in run.candidates}
    assert told["int8-fp16"]["products"] == told["int8"]["products"], "the pairs are fused as they are in INT8 alone"
    assert told["int8-fp16"]["layers"] <= told["int8"]["layers"] + 1
    assert len(told["int8-fp16"]["reformats"]) <= len(told["int8"]["reformats"]) + 1
    assert all(c.pending for c in run.candidates)
    packed = sorted((tmp_path / "out/bundles").glob("*.tar.gz"))
    assert {p.name.removeprefix("quick-").partition("-tensorrt")[0] for p in packed} == {"fp32", "int8", "int8-fp16"}
    for path in packed:
        assert bundle.verify(path, run_samples=False).manifest.pending
    engine = tmp_path / "out/bundles/quick-int8-tensorrt-rtx/model"
    told = facts.load(engine)
    assert [dict(p.ranges) for p in told.ranges()] == [{"batch": (1, 1, 1)}, {"batch": (2, 32, 32)}]
    manifest = json.loads((engine.parent / "manifest.json").read_text())
    assert manifest["measurements"] == [m for m in manifest["measurements"] if m["metric"] == "size"]
