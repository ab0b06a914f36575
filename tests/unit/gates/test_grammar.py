"""What a gate may say, and what the errors say about what it may not."""

from __future__ import annotations

import re

import pytest

from optimizer.errors import OptimizerError
from optimizer.gates import Fact, Gate, check, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top1 drop <= 0.5pp", ("top1", "drop", "<=", 0.5, "pp", None)),
        ("latency.p50 speedup >= 2x", ("latency.p50", "speedup", ">=", 2.0, "x", None)),
        ("latency speedup > 1.5", ("latency.p50", "speedup", ">", 1.5, "x", None)),
        ("size ratio <= 0.3", ("size", "ratio", "<=", 0.3, "x", None)),
        ("size ratio <= 30%", ("size", "ratio", "<=", 0.3, "x", None)),
        ("latency.p95 < 2 s at batch 8", ("latency.p95", "absolute", "<", 2000.0, "ms", 8)),
        ("latency<=500us", ("latency.p50", "absolute", "<=", 0.5, "ms", None)),
        ("throughput >= 100 1/s at batch 16", ("throughput", "absolute", ">=", 100.0, "1/s", 16)),
        ("memory.peak <= 1.5GB", ("memory.peak", "absolute", "<=", 1.5e9, "B", None)),
        ("size <= 3 MiB", ("size", "absolute", "<=", 3 * 2**20, "B", None)),
        ("load.time <= 300ms", ("load.time", "absolute", "<=", 300.0, "ms", None)),
        ("spearman drop ≤ .01", ("spearman", "drop", "<=", 0.01, "", None)),
        ("agreement >= 99%", ("agreement", "absolute", ">=", 99.0, "%", None)),
    ],
)
def test_reads_metric_relation_threshold_and_batch(text: str, expected: tuple[object, ...]) -> None:
    gate = parse(text)
    assert (gate.metric, gate.relation, gate.op, gate.threshold, gate.unit, gate.batch) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "variant", "target"),
    [
        ("int8: top1 >= 80%", "int8", None),
        ("int8@openvino: top1 >= 80%", "int8", "openvino"),
        ("@openvino:top1>=80%", None, "openvino"),
        ("  top1  >=  80 %  ", None, None),
    ],
)
def test_reads_the_subject(text: str, variant: str | None, target: str | None) -> None:
    gate = parse(text)
    assert (gate.variant, gate.target) == (variant, target)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("top1 drop >= 0.5pp", "lower is better", "did you mean <=?"),
        ("latency speedup <= 2x", "higher is better", "did you mean >=?"),
        ("latency >= 5ms", "lower is better", "did you mean <=?"),
        ("throughput <= 5 1/s", "higher is better", "did you mean >=?"),
        ("top1 drop <= 0.5%", "not measured in '%'", "did you mean 'top1 drop <= 0.5pp'"),
        ("top1 >= 80pp", "not measured in 'pp'", "%"),
        ("latency <= 5", "needs a unit", "ms"),
        ("latency <= 5mS", "unknown unit 'mS'", "did you mean 'ms'?"),
        ("latency <= 5MB", "not measured in 'MB'", "ms"),
        ("latency.p999 <= 5ms", "unknown metric 'latency.p999'", "did you mean 'latency.p99'?"),
        ("size speedup >= 2x", "'size' has no speedup", "'size ratio'"),
        ("latency drop <= 5ms", "has no drop", "'latency.p50 speedup'"),
        ("top1 drp <= 0.5pp", "unknown word 'drp'", "did you mean 'drop'?"),
        ("speedup >= 2x", "'speedup' of what?", "latency.p50 speedup >= 2x"),
        ("top1 == 80%", "'==' is no comparison", "use <="),
        ("top1 >= 80% at batch 8", "does not depend on the batch size", "leave 'at batch' out"),
        ("latency <= 5ms at batch", "cannot be read", "a gate is"),
        ("top1 >=", "cannot be read", "top1 drop <= 0.5pp"),
        ("", "cannot be read", "a gate is"),
    ],
)
def test_faults_name_themselves_and_the_next_move(text: str, message: str, hint: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        parse(text)
    assert caught.value.message.startswith(f"gate '{text}'")
    assert message in caught.value.message
    assert hint in str(caught.value.hint)
    assert "a gate is [[variant][@target]:] METRIC" in str(caught.value.hint)


FACTS = {
    "top1": Fact("%", "higher", False),
    "spearman": Fact("", "higher", False),
    "agreement": Fact("%", "higher", True),
}


def feasible(text: str, latency: bool = True) -> None:
    check([parse(text)], FACTS, latency, [1, 8])


@pytest.mark.parametrize(
    "text", ["top1 drop <= 1pp", "latency <= 5ms at batch 8", "size ratio <= 0.3", "memory.peak <= 1GB"]
)
def test_check_accepts_what_is_planned(text: str) -> None:
    feasible(text)


@pytest.mark.parametrize(
    ("text", "settings", "message", "hint"),
    [
        ("f1 >= 80%", {}, "'f1' is not measured", "add f1 to measure.metrics"),
        ("top5 >= 80%", {}, "available: top1, spearman, agreement, size", "did you mean 'top1'?"),
        ("latency <= 5ms", {"latency": False}, "'latency.p50' is not measured", "switch on measure.latency"),
        ("agreement drop <= 1pp", {}, "already compares with the baseline", "without 'drop'"),
        ("latency <= 5ms at batch 4", {}, "no latency is measured at batch 4; available: 1, 8", "add 4"),
        ("spearman drop <= 1pp", {}, "has no unit", "write no unit"),
        ("top1 <= 80%", {}, "higher is better", "turn the comparison round"),
    ],
)
def test_check_refuses_what_no_measurement_will_answer(
    text: str, settings: dict[str, bool], message: str, hint: str
) -> None:
    with pytest.raises(OptimizerError) as caught:
        feasible(text, **settings)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_gate_is_shown_as_it_was_written() -> None:
    assert str(parse(" top1   drop <= 0.5pp ")) == "top1 drop <= 0.5pp"
    assert isinstance(parse("top1 >= 1"), Gate)


LOADS = {"offline.throughput": [1, 8], "server.p50": [1], "server.p99": "100 requests do not support p99"}


@pytest.mark.parametrize(
    ("text", "relation", "threshold", "unit"),
    [
        ("offline.throughput ratio >= 1.5x", "ratio", 1.5, "x"),
        ("offline.throughput >= 100/s at batch 8", "absolute", 100.0, "1/s"),
        ("server.p99 <= 20ms", "absolute", 20.0, "ms"),
        ("server.p50 speedup >= 2x", "speedup", 2.0, "x"),
        ("server.rate >= 100/s", "absolute", 100.0, "1/s"),
    ],
)
def test_gates_on_scenarios(text: str, relation: str, threshold: float, unit: str) -> None:
    gate = parse(text)
    assert (gate.relation, gate.threshold, gate.unit) == (relation, threshold, unit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server.p95 <= 20ms", "unknown metric 'server.p95'"),
        ("server.p99 <= 20", "needs a unit"),
        ("server.rate <= 100/s", "higher is better"),
        ("server.rate ratio >= 2x", "not compared with a baseline"),
        ("server.p99 <= 20ms at batch 8", "does not depend on the batch size"),
        ("offline.throughput speedup >= 2x", "has no speedup"),
        ("offline.rate >= 1/s", "unknown metric"),
    ],
)
def test_gates_on_scenarios_that_mean_nothing(text: str, message: str) -> None:
    with pytest.raises(OptimizerError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "offline.throughput >= 1/s at batch 4",
            "no offline throughput is measured at batch 4",
            "measure.offline.batch",
        ),
        ("server.p99 <= 20ms", "do not support p99", "seconds longer"),
        ("server.p90 <= 20ms", "not measured", "give measure.server a rate"),
        ("server.rate >= 5/s", "not measured", "give measure.server a bound"),
    ],
)
def test_gates_on_scenarios_that_are_not_measured_name_the_setting(text: str, message: str, hint: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        check([parse(text)], FACTS, True, [1], LOADS)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_gates_on_scenarios_that_are_measured_are_feasible() -> None:
    check([parse(t) for t in ("offline.throughput >= 1/s at batch 8", "server.p50 <= 1ms")], FACTS, False, [], LOADS)
    with pytest.raises(OptimizerError, match="not measured") as caught:
        check([parse("offline.throughput >= 1/s")], FACTS, True, [1])
    assert "add measure.offline" in str(caught.value.hint)
