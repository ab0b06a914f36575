"""Offline throughput: interleaved blocks of several callers, ratios to the baseline, and who fails is left out."""

from __future__ import annotations

import json

import pytest
from load_lab import SAMPLES, Lab, subject

from optimizer.errors import OptimizerError
from optimizer.measure.offline import METRIC, Plan, lay_out, measure
from optimizer.measure.together import Found
from optimizer.values import Measurement

PACE = {"fp32@onnxruntime": 4e6, "int8@onnxruntime": 2e6, "other@openvino": 1e6}
BASE = {"int8@onnxruntime": "fp32@onnxruntime"}


def taken(lab: Lab, plan: Plan | None = None, callers: int = 2) -> Found:
    subjects = [subject(name, threads=1) for name in PACE]
    plan = plan or Plan([1, 8], 3.0, 3, seed=5, machine="here")
    return measure(subjects, dict.fromkeys(PACE, callers), BASE, SAMPLES, plan, launch=lab.launch)


def one(found: Found, name: str, relation: str = "absolute", batch: int = 1) -> Measurement:
    (m,) = [m for m in found.measurements if (m.subject, m.relation, m.at["batch"]) == (name, relation, batch)]
    assert m.low is not None
    assert m.high is not None
    assert m.low <= m.value <= m.high
    return m


def test_throughput_is_samples_of_all_callers_per_second() -> None:
    lab = Lab(PACE)
    found = taken(lab)
    assert lab.alive == 0
    assert not found.failures
    m = one(found, "int8@onnxruntime", batch=8)
    assert (m.metric, m.unit, m.better, m.machine) == (METRIC, "1/s", "higher", "here")
    assert m.value == pytest.approx(8 * 2 / 2e-3, rel=0.02)
    assert m.at == {"batch": 8, "streams": 2, "threads": 1}
    assert m.protocol["restarts"] == len(m.protocol["restart_rate"]) == 3
    assert m.protocol["boundary"].startswith("one call: host arrays in, host arrays out; Python's own work")
    assert m.n > 1000
    json.dumps([m.protocol for m in found.measurements], allow_nan=False)


def test_the_ratio_is_against_the_baseline_at_the_same_batch() -> None:
    found = taken(Lab(PACE))
    m = one(found, "int8@onnxruntime", "ratio", 8)
    assert m.value == pytest.approx(2.0, rel=0.02)
    assert (m.against, m.unit) == ("fp32@onnxruntime", "x")
    assert m.high is not None
    assert m.high < 2.2
    assert {m.subject for m in found.measurements if m.relation == "ratio"} == {"int8@onnxruntime"}


def test_more_callers_than_cores_bring_no_more() -> None:
    few, many = taken(Lab(PACE), callers=2), taken(Lab(PACE), callers=8)
    assert one(many, "other@openvino").value == pytest.approx(one(few, "other@openvino").value, rel=0.05)
    alone = taken(Lab(PACE), callers=1)
    assert one(few, "other@openvino").value == pytest.approx(2 * one(alone, "other@openvino").value, rel=0.05)


def test_blocks_are_interleaved_in_fresh_processes() -> None:
    lab = Lab(PACE)
    taken(lab, Plan([1], 3.0, 3))
    assert lab.launches == dict.fromkeys(PACE, 3)
    first = [name for name, *_ in lab.log[: len(lab.log) // 3]][2 * len(PACE) :]
    rounds = [tuple(first[i : i + 3]) for i in range(0, len(first), 3)]
    assert len(rounds) == 10
    assert all(sorted(r) == sorted(PACE) for r in rounds)
    assert len(set(rounds)) > 2


def test_openvino_is_opened_with_a_stream_per_caller() -> None:
    m = one(taken(Lab(PACE), callers=3), "other@openvino")
    assert (m.protocol["options"]["streams"], m.protocol["options"]["performance"]) == (3, "throughput")


def test_whose_process_dies_is_named_and_the_others_go_on() -> None:
    lab = Lab(PACE, fail=("fp32@onnxruntime", 2))  # in its second restart
    found = taken(lab)
    assert list(found.failures) == ["fp32@onnxruntime"]
    assert "killed" in found.failures["fp32@onnxruntime"].message
    assert {m.subject for m in found.measurements} == {"int8@onnxruntime", "other@openvino"}
    assert lab.alive == 0
    assert one(found, "int8@onnxruntime", batch=8).value > 0
    assert not [m for m in found.measurements if m.relation == "ratio"]  # its baseline is the one that died


def test_the_budget_is_spent_in_blocks_of_equal_work() -> None:
    callers = {"fast": 2, "slow": 2}
    rounds, calls = lay_out({"fast": 1e5, "slow": 1e7}, callers, Plan([1], 3.0, 3))
    assert (rounds, calls) == (10, {"fast": 1000, "slow": 10})
    rounds, calls = lay_out({"slow": 2e9}, {"slow": 4}, Plan([1], 3.0, 3))
    assert (rounds, calls) == (3, {"slow": 4})  # a call per caller at least
    assert lay_out({}, {}, Plan([1], 3.0, 3)) == (10, {})


def test_a_batch_that_does_not_fit_names_the_place_in_the_recipe() -> None:
    with pytest.raises(OptimizerError, match=r"measure\.offline\.dims: no free dimension 'width'"):
        taken(Lab(PACE), Plan([1], 1.0, 2, dims={"width": 3}))


def test_restarts_that_differ_widen_the_interval() -> None:
    class Lucky(dict[str, float]):
        count = 0

        def __getitem__(self, name: str) -> float:
            self.count += 1
            return 1e6 if self.count < 14 else 2e6

    steady = measure([subject("a")], {"a": 2}, {}, SAMPLES, Plan([1], 3.0, 3), launch=Lab({"a": 1e6}).launch)
    lucky = measure([subject("a")], {"a": 2}, {}, SAMPLES, Plan([1], 3.0, 3), launch=Lab(Lucky(a=1e6)).launch)
    widths = [m.high / m.low for f in (steady, lucky) if (m := one(f, "a")).low and m.high]
    assert widths[0] < 1.1
    assert widths[1] > 1.5
