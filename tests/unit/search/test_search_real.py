"""Trials for real, on a net with one layer that 8 bits ruin: built, compared, judged, timed, and mended by `keep`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from explain_lab import CULPRIT, fragile

from optimizer import search
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.explain.kernels import Kernel, Profiled
from optimizer.explain.subject import Subject
from optimizer.protocols import Feeds
from optimizer.recipe import parse
from optimizer.search.points import Point
from optimizer.search.runner import Timed
from optimizer.search.trial import Trials
from optimizer.store import Store

RUINED = Point("onnxruntime", (("quantize.static", {"per_channel": False}),))
EXAMPLES = 900
BASE: dict[str, Any] = {
    "model": {"file": "fragile.onnx"},
    "variants": {"fp32": [], "best": ["auto"]},
    "targets": ["onnxruntime", "openvino"],
    "baseline": "fp32",
    "measure": {"metrics": ["top1"], "latency": {"seconds": 0.1, "restarts": 2, "most_restarts": 2}},
    "gates": ["top1 drop <= 4pp", "latency.p50 speedup >= 0.001x"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net, and examples with what it says of them as labels."""
    from onnx.reference import ReferenceEvaluator

    found = tmp_path_factory.mktemp("fragile")
    net = fragile()
    onnx.save(net, found / "fragile.onnx")
    x = np.random.default_rng(1).standard_normal((EXAMPLES, 6)).astype(np.float32)
    labels = np.argmax(ReferenceEvaluator(net).run(None, {"x": x})[0], axis=1)
    np.savez(found / "d.npz", x=x, y=labels)
    return found


def made(folder: Path, store: Store, **changes: Any) -> Trials:
    rows: dict[str, Any] = {"source": {"npz": {"path": "d.npz"}}, "label": "y"}
    data = {
        "calibrate": {**rows, "take": 100},
        "select": {**rows, "skip": 100, "take": 400},
        "evaluate": {**rows, "skip": 500},
    }
    asked = search.find(parse({**BASE, "data": data, **changes}, "test", folder, "fragile"))
    assert asked is not None
    return Trials(asked, store, Console(level=0, err=io.StringIO()))


@pytest.fixture
def trials(folder: Path, store: Store) -> Trials:
    found = made(folder, store)
    found.prepare()
    return found


def test_a_ruined_trial_is_seen_by_its_outputs_and_by_the_metric_and_mended_by_leaving_a_layer_in_float(
    trials: Trials,
) -> None:
    plain = Point("onnxruntime")
    good, bad = trials.build(plain), trials.build(RUINED)
    assert good.error == 0
    assert bad.error > 0.05
    assert bad.precision.startswith("int8")
    held = trials.stand(RUINED, trials.judge(RUINED))
    assert held.level == "broken"
    assert held.gap.startswith("top1 drop ")
    assert held.gap.endswith("the gate asks <= 4 pp")
    assert trials.stand(plain, trials.judge(plain)).level == "sure"
    [restored] = trials.restored(RUINED, 30.0)
    mended = restored.point
    assert restored.why.startswith(
        "of quantize.static-per_channel_False@onnxruntime, 1 of 3 layers back in float (fc2), which takes 100 % of the "
        "noise away for "
    ), restored.why
    assert mended.steps == (("quantize.static", {"per_channel": False, "keep": [CULPRIT]}),)
    assert trials.build(mended).error < bad.error / 10
    assert trials.stand(mended, trials.judge(mended)).level in ("sure", "likely")


def test_layers_are_put_back_by_the_milliseconds_that_a_profiler_shows(
    trials: Trials, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimizer.explain import slow

    profiles = []

    def kernels(subject: Subject, feeds: Feeds, budget: float) -> Profiled:
        session = onnx.load(subject.artifact.path / "model.onnx")
        rounded = any(node.op_type == "QuantizeLinear" for node in session.graph.node)
        profiles.append(rounded)
        times = {"fc1": 0.5, "fc2": 0.25, "fc3": 0.2} if rounded else {"fc1": 1.0, "fc2": 0.35, "fc3": 0.3}
        return Profiled(
            tuple(Kernel(n, "Gemm", "float", "", [ms]) for n, ms in times.items()), 1.0, 1.0, 5, sizes={"batch": 1}
        )

    monkeypatch.setattr(slow, "kernels", kernels)
    trials.build(RUINED)
    [restored] = trials.restored(RUINED, 30.0)
    assert profiles == [True, False], "all layers in 8 bits, then all in float"
    assert restored.why.endswith("(fc2), which takes 100 % of the noise away for 0.1 of 1 ms")


def test_a_step_that_leaves_no_pairs_is_done_again_with_layers_in_float(trials: Trials) -> None:
    ruined = Point("onnxruntime", (("quantize.dynamic", {"per_channel": False}),))
    error = trials.build(ruined).error
    [restored] = trials.restored(ruined, 30.0)
    [(name, options)] = restored.point.steps
    assert (name, options["per_channel"]) == ("quantize.dynamic", False)
    assert CULPRIT in options["keep"]
    assert len(options["keep"]) < 3, "some stay in 8 bits"
    assert " of 3 layers back in float (fc2" in restored.why
    assert restored.why.endswith("% of what is multiplied and stored in 8 bits")
    mended = trials.build(restored.point)
    assert mended.error < error / 10
    assert trials.stand(restored.point, trials.judge(restored.point)).level in ("sure", "likely")


def test_all_are_timed_in_one_session_against_the_same_yardstick(trials: Trials) -> None:
    given = [RUINED, Point("openvino")]
    for point in given:
        trials.build(point)
    found = trials.time(given, thorough=False)
    for point in given:
        timed = found[point.name]
        assert isinstance(timed, Timed)
        assert timed.objective.against == "fp32@onnxruntime"
        assert timed.objective.low is not None
        by_key = {(m.metric, m.relation): m for m in timed.measurements}
        assert by_key["latency.p50", "speedup"].against == f"fp32@{point.target}", "its gates are about its own target"
        assert len(str(timed)) < 20_000, "a search has many of them"


def test_what_another_layer_cannot_mend_is_left_alone(trials: Trials) -> None:
    assert trials.restored(Point("onnxruntime"), 5.0) == [], "nothing is quantized"


def test_keys_tell_trials_apart_without_building(trials: Trials) -> None:
    points = [
        RUINED,
        Point("onnxruntime"),
        Point("onnxruntime", (), {"graph_optimization": "extended"}),
        Point("openvino"),
    ]
    assert len({trials.key(p) for p in points}) == 4
    assert trials.key(RUINED) == trials.key(Point(RUINED.target, RUINED.steps))


def test_a_trial_that_cannot_be_built_says_why(trials: Trials) -> None:
    with pytest.raises(OptimizerError, match="matches none of"):
        trials.build(Point("onnxruntime", (("quantize.static", {"keep": ["nothing.of.this.name"]}),)))


def test_a_baseline_on_one_target_serves_the_trials_of_all(folder: Path, store: Store) -> None:
    alone = {"fp32": {"onnxruntime": []}, "best": ["auto"]}
    found = made(folder, store, variants=alone, baseline="fp32@onnxruntime")
    found.prepare()
    for point in (Point("openvino"), Point("onnxruntime")):
        assert found.build(point).error == 0, "its outputs are compared with the model as it is on its own target"
        judged = found.judge(point)
        assert {m.against for m in judged if m.relation == "drop"} == {"fp32@onnxruntime"}
        assert found.stand(point, judged).level == "sure"
    timed = found.time([Point("openvino")], thorough=False)["as-is@openvino"]
    assert isinstance(timed, Timed)
    assert {m.against for m in timed.measurements if m.relation == "speedup"} == {"fp32@onnxruntime"}


def test_a_target_on_which_trials_have_no_baseline_is_refused(folder: Path, store: Store) -> None:
    alone = {"fp32": {"openvino": []}, "best": ["auto"]}
    with pytest.raises(OptimizerError, match="not built for onnxruntime") as found:
        made(folder, store, variants=alone).prepare()
    assert "baseline: fp32@openvino" in str(found.value.hint)
    assert "targets: [openvino]" in str(found.value.hint)


def test_where_only_size_counts_nothing_is_timed_before_the_end(folder: Path, store: Store) -> None:
    variants = {"fp32": [], "best": [{"auto": {"objective": "size"}}]}
    for gates, timed in ((["top1 drop <= 4pp"], False), (BASE["gates"], True)):
        found = made(folder, store, variants=variants, gates=gates)
        found.prepare()
        found.build(RUINED)
        own = found.time([RUINED], thorough=False)[RUINED.name]
        assert isinstance(own, Timed)
        assert (own.objective.metric, own.objective.relation) == ("size", "ratio")
        assert bool(own.measurements) == timed, "a gate on latency needs it"
