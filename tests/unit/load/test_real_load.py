"""Load in real processes: a tiny model on both runtimes, and a session that dies under it."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from load_lab import SAMPLES, SIGNATURE
from onnx import TensorProto, helper, numpy_helper

from optimizer.errors import OptimizerError
from optimizer.measure import capacity, offline, server, sweep
from optimizer.measure.process import Subject
from optimizer.protocols import Context
from optimizer.specs import SweepSpec
from optimizer.targets import onnxruntime as ort_target
from optimizer.targets import openvino as openvino_target
from optimizer.values import Artifact

RIG = '''
"""A target without `fork` that ends its process in one of its calls."""
import os
from contextlib import contextmanager
from pydantic import BaseModel


class Options(BaseModel, extra="forbid"):
    threads: int = 1
    lives: int = 1_000_000


@contextmanager
def open(artifact, options):
    yield Session(artifact, options.lives)


class Session:
    precision = "none"

    def __init__(self, artifact, lives):
        self.signature, self.lives, self.inside = artifact.signature, lives, 0

    def __call__(self, feeds):
        self.inside += 1
        assert self.inside == 1, "two callers at once"
        self.lives -= 1
        if self.lives < 0:
            os.kill(os.getpid(), 9)
        self.inside -= 1
        return {"y": feeds["x"][:, :2]}
'''


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    folder = tmp_path_factory.mktemp("model")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.ones((4, 2), np.float32), "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    source = Artifact("onnx", folder, "key", "digest", SIGNATURE, 1)
    out = folder / "ir"
    out.mkdir()
    openvino_target.run(source, openvino_target.Options(), Context(), out)
    return {"onnxruntime": source, "openvino": dataclasses.replace(source, format="openvino", path=out)}


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A third-party target "rig" for this process and its workers."""
    info = tmp_path / "rig-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rig\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[optimizer.targets]\nrig = load_rig\n")
    (tmp_path / "load_rig.py").write_text(RIG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield


def subjects(artifacts: dict[str, Artifact]) -> list[Subject]:
    return [Subject(f"fp32@{name}", name, artifact, {"threads": 1}) for name, artifact in artifacts.items()]


def test_two_callers_on_both_runtimes(artifacts: dict[str, Artifact]) -> None:
    made = subjects(artifacts)
    names = [s.name for s in made]
    baseline = {names[1]: names[0]}
    found = offline.measure(made, dict.fromkeys(names, 2), baseline, SAMPLES, offline.Plan([4], 0.2, 2))
    assert found.failures == {}
    assert [(m.subject, m.relation) for m in found.measurements] == [
        (names[0], "absolute"), (names[1], "absolute"), (names[1], "ratio"),
    ]  # fmt: skip
    for m in found.measurements:
        assert m.low is not None
        assert m.high is not None
        assert 0 < m.low <= m.value <= m.high
        assert m.protocol["precision"] == "float32"


def test_random_arrivals_on_both_runtimes(artifacts: dict[str, Artifact]) -> None:
    made = subjects(artifacts)
    plan = server.Plan(callers=2, seconds=0.6, restarts=2)
    found = server.under_rate(made, {}, SAMPLES, 500.0, plan)
    assert found.failures == {}
    assert {m.metric for m in found.measurements} == {"server.p50", "server.p90", "server.p99"}
    assert all(m.n == 300 and m.value > 0 for m in found.measurements)


def test_the_highest_rate_of_a_real_runtime(artifacts: dict[str, Artifact]) -> None:
    goal = capacity.Goal(percentile=90, bound_ms=500.0, probes=5)
    plan = server.Plan(callers=1, seconds=0.05, restarts=2)
    (m,) = capacity.highest_rate(subjects(artifacts)[:1], SAMPLES, goal, plan).measurements
    assert m.high is not None
    assert 0 < m.value < m.high
    assert max(p["utilisation"] for p in m.protocol["probes"]) > 0.5


def test_a_sweep_of_a_real_runtime(artifacts: dict[str, Artifact]) -> None:
    spec = SweepSpec(threads=[1], streams=[1, 2], batch=[2], seconds=0.1, restarts=2)
    found = sweep.sweep(subjects(artifacts)[1], SAMPLES, spec, 2, 0, "here")
    assert found.remarks == ()
    assert [s.objective for s in found.settings] == ["latency", "throughput"]
    assert all(math.isfinite(s.value) and s.value > 0 for s in found.settings)


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_a_session_that_dies_under_load_is_named_and_the_others_go_on(
    scenario: str, artifacts: dict[str, Artifact], rig: None
) -> None:
    fake = dataclasses.replace(artifacts["onnxruntime"], format="fake")
    weak = Subject("weak@rig", "rig", fake, {"threads": 1, "lives": 60})
    made = [subjects(artifacts)[0], Subject("strong@rig", "rig", fake, {"threads": 1}), weak]
    names = [s.name for s in made]
    if scenario == "offline":
        found = offline.measure(made, dict.fromkeys(names, 2), {}, SAMPLES, offline.Plan([1], 0.1, 1))
    else:
        found = server.under_rate(made, {}, SAMPLES, 500.0, server.Plan(2, 0.1, 1))
    assert list(found.failures) == ["weak@rig"]
    assert "measuring 'weak@rig': its process was killed by SIGKILL" in found.failures["weak@rig"].message
    # Two callers of a session without `fork` never met, or "strong" would have ended as well.
    assert {m.subject for m in found.measurements} == {"fp32@onnxruntime", "strong@rig"}


def test_openvino_opens_as_many_streams_as_callers_and_gives_each_its_threads(
    artifacts: dict[str, Artifact],
) -> None:
    options = openvino_target.side_by_side(openvino_target.Options(threads=1), 2)
    assert (options.streams, options.performance) == (2, "throughput")
    with openvino_target.open(artifacts["openvino"], options) as session:
        compiled = session._compiled  # type: ignore[attr-defined]  # looked at, not believed
        assert compiled.get_property("NUM_STREAMS") == 2
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2
        other = session.fork()  # type: ignore[attr-defined]
        assert np.array_equal(other(SAMPLES)["y"], session(SAMPLES)["y"])
    own = openvino_target.Options(streams=3)
    assert openvino_target.side_by_side(own, 2) == own
    assert openvino_target.side_by_side(openvino_target.Options(), 1) == openvino_target.Options()


def test_onnxruntime_ends_its_profile_before_it_is_shared(artifacts: dict[str, Artifact]) -> None:
    with ort_target.open(artifacts["onnxruntime"], ort_target.Options(threads=2)) as session:
        assert session._profile is None  # type: ignore[attr-defined]
        assert session.fork() is session  # type: ignore[attr-defined]
        assert session._profile is not None  # type: ignore[attr-defined]
        inner = session._session.get_session_options()  # type: ignore[attr-defined]
        assert inner.intra_op_num_threads == 2


def test_a_batch_that_a_fixed_model_cannot_run_names_the_scenario(artifacts: dict[str, Artifact]) -> None:
    fixed = dataclasses.replace(artifacts["onnxruntime"], signature=dataclasses.replace(SIGNATURE, inputs=(_fixed(),)))
    with pytest.raises(OptimizerError, match=r"measure\.offline\.batch: .* cannot run 8 samples"):
        offline.measure(
            [Subject("a@onnxruntime", "onnxruntime", fixed)], {"a@onnxruntime": 1}, {}, SAMPLES, offline.Plan([8], 1, 1)
        )


def _fixed() -> object:
    return dataclasses.replace(SIGNATURE.inputs[0], shape=(1, 4))
