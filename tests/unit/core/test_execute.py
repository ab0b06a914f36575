"""What a build ships: the fastest that passed, per target, and nothing in place of what failed."""

from __future__ import annotations

import dataclasses

import pytest

from optimizer.choice import chosen
from optimizer.values import Candidate, Machine, Measurement, Run, Verdict, waiting

CELLS = [(v, t) for v in ("fp32", "int8") for t in ("pytorch", "onnxruntime", "openvino")]


def latency(name: str, value: float) -> Measurement:
    return Measurement(name, "latency.p50", "absolute", value, value, value, 9, "ms", "lower", at={"batch": 1})


@pytest.fixture
def run() -> Run:
    candidates = tuple(
        Candidate(v, t, (), {}, size=1, skipped="no" if (v, t) == ("int8", "pytorch") else None) for v, t in CELLS
    )
    times = {"fp32@onnxruntime": 3.0, "int8@onnxruntime": 1.0, "fp32@openvino": 2.0, "int8@openvino": 4.0}
    verdicts = tuple(Verdict("g", f"int8@{t}", "pass", "r") for t in ("onnxruntime", "openvino"))
    machine = Machine("c", "a", 1, (), 1, "o", "p")
    measured = tuple(latency(n, v) for n, v in times.items())
    return Run(1, "0", "n", "t", {}, "fp32", machine, {}, (), (), candidates, measured, verdicts, (), 1.0, "pass")


def names(found: list[Candidate]) -> list[str]:
    return [c.name for c in found]


def test_best_is_the_fastest_per_target_that_may_be_shipped(run: Run) -> None:
    assert names(chosen(run, "best", False)) == ["int8@onnxruntime", "fp32@openvino"]
    assert len(chosen(run, "all", False)) == 4
    assert chosen(run, "none", False) == []


def test_what_waits_goes_with_its_baseline_wherever_that_was_measured(run: Run) -> None:
    gpu = Candidate("gpu", "onnxruntime", (), {}, size=1, pending="no GPU")
    assert waiting([*run.candidates, gpu]) == {"gpu@onnxruntime": "no GPU"}
    mixed = dataclasses.replace(run, candidates=(*run.candidates, gpu))
    assert names(chosen(mixed, "best", False)) == [
        "int8@onnxruntime", "fp32@openvino", "fp32@onnxruntime", "gpu@onnxruntime"
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["best", "all"])
def test_what_waits_beside_one_that_failed_keeps_its_baseline(run: Run, which: str) -> None:
    engines = tuple(Candidate(v, "tensorrt-rtx", (), {}, pending="no GPU") for v in ("fp32", "half", "int8"))
    assert waiting(engines) == {"tensorrt-rtx": "no GPU"}
    failed = Verdict("size ratio <= 2", "int8@tensorrt-rtx", "fail", "r")
    found = chosen(dataclasses.replace(run, candidates=engines, verdicts=(failed,)), which, False)
    assert names(found) == ["fp32@tensorrt-rtx", "half@tensorrt-rtx"]


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_where_a_candidate_did_not_pass_its_baseline_does_not_stand_in(run: Run, outcome) -> None:
    bad = tuple(dataclasses.replace(v, outcome=outcome) if "onnx" in v.subject else v for v in run.verdicts)
    failed = dataclasses.replace(run, verdicts=bad)
    assert names(chosen(failed, "best", False)) == ["fp32@openvino"]
    assert names(chosen(failed, "best", True)) == ["int8@onnxruntime", "fp32@openvino"]
