"""One tiny ONNX model through the real ONNX Runtime target in real processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimizer.errors import OptimizerError
from optimizer.measure.latency import Subject, measure
from optimizer.recipe import LatencySpec
from optimizer.values import Artifact, Measurement, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec.parse("x", "float32[batch,8]"),), (TensorSpec.parse("y", "float32[batch,8]"),))
SAMPLES = {"x": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8])],
        [weight],
    )
    path = tmp_path / "artifact"
    path.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path / "model.onnx")
    return Artifact("onnx", path, "key", "digest", SIGNATURE, (path / "model.onnx").stat().st_size)


def test_the_same_artifact_twice(artifact: Artifact) -> None:
    subjects = [Subject(name, "onnxruntime", artifact, {"threads": 1}) for name in ("a@onnxruntime", "b@onnxruntime")]
    spec = LatencySpec(batch=[4], seconds=0.1, restarts=2, most_restarts=2)
    found = measure(subjects, {"b@onnxruntime": "a@onnxruntime"}, SAMPLES, spec, 0, "here")
    by: dict[tuple[str, str, str], Measurement] = {(m.subject[0], m.metric, m.relation): m for m in found}
    assert by["a", "latency.p50", "absolute"].value > 0
    assert by["a", "latency.p50", "absolute"].protocol["precision"]
    speedup = by["b", "latency.p50", "speedup"]
    assert speedup.low is not None
    assert speedup.high is not None
    assert speedup.low <= speedup.value <= speedup.high
    assert by["a", "memory.peak", "absolute"].value > by["a", "memory.peak", "absolute"].protocol["before_open"]


def test_a_damaged_artifact_names_its_subject(artifact: Artifact) -> None:
    (artifact.path / "model.onnx").write_bytes(b"no model")
    subject = Subject("int8@onnxruntime", "onnxruntime", artifact, {"threads": 1})
    with pytest.raises(OptimizerError, match="measuring 'int8@onnxruntime'"):
        measure([subject], {}, SAMPLES, LatencySpec(seconds=0.1, restarts=1, most_restarts=1), 0, "here")
