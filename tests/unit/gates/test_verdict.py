"""A verdict is decided by the pessimistic end of the interval, and never by less than was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.gates import judge, outcome, parse
from optimizer.values import Candidate, Measurement, Verdict

FP32 = Candidate("fp32", "ort", (), {})
INT8 = Candidate("int8", "ort", (), {})


def drop(value: float, low: float | None, high: float | None, subject: str = "int8@ort", **more: Any) -> Measurement:
    base = Measurement(subject, "top1", "drop", value, low, high, 1000, "pp", "lower", against="fp32@ort")
    return replace(base, **more)


def latency(value: float, batch: int, metric: str = "latency.p50") -> Measurement:
    return Measurement(
        "int8@ort", metric, "absolute", value, value * 0.9, value * 1.1, 400, "ms", "lower", at={"batch": batch}
    )


def one(text: str, *found: Measurement) -> Verdict:
    (verdict,) = judge([parse(text)], found, [FP32, INT8], "fp32")
    return verdict


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.2, 0.3, "pass"),
        (-0.2, 0.5, "pass"),
        (0.1, 0.7, "inconclusive"),
        (0.5, 0.7, "inconclusive"),
        (0.6, 0.7, "fail"),
    ],
)
def test_the_whole_interval_must_lie_on_one_side(low: float, high: float, expected: str) -> None:
    assert one("top1 drop <= 0.5pp", drop((low + high) / 2, low, high)).outcome == expected


def test_strict_comparison_refuses_the_limit_itself() -> None:
    assert one("top1 drop < 0.5pp", drop(0.4, 0.3, 0.5)).outcome == "inconclusive"
    assert one("top1 drop < 0.5pp", drop(0.6, 0.5, 0.7)).outcome == "fail"


def test_exact_values_need_no_interval() -> None:
    size = Measurement("int8@ort", "size", "ratio", 0.27, None, None, 1, "x", "lower", against="fp32@ort")
    assert one("size ratio <= 0.3", size).outcome == "pass"
    verdict = one("size ratio <= 0.25", size)
    assert verdict.outcome == "fail"
    assert verdict.reason == "size ratio against fp32@ort is 0.27x (exact), which is not <= 0.25x."


def test_the_reason_holds_value_interval_count_and_limit() -> None:
    reason = one("top1 drop <= 0.5pp", drop(0.1, -0.2, 0.4)).reason
    assert reason == (
        "top1 drop against fp32@ort is 0.1 pp (95 % interval -0.2 to 0.4 pp, n = 1000), all of it <= 0.5 pp."
    )


def test_an_inconclusive_accuracy_gate_says_how_much_data_would_settle_it() -> None:
    reason = one("top1 drop <= 0.5pp", drop(0.3, -0.1, 0.7)).reason
    assert "1000 examples resolve a drop of about 0.4 pp" in reason
    assert "about 4,000 examples" in reason  # half-width 0.4 must become 0.2
    assert "never settle it" in one("top1 drop <= 0.3pp", drop(0.3, -0.1, 0.7)).reason


def test_an_inconclusive_latency_gate_asks_for_more_time() -> None:
    assert "Measure longer" in one("latency <= 10ms", latency(10.0, 1)).reason


def test_the_smallest_batch_is_judged_unless_the_gate_names_one() -> None:
    found = [latency(80.0, 8), latency(10.0, 1)]
    assert one("latency <= 12ms", *found).outcome == "pass"
    assert one("latency <= 12ms at batch 8", *found).outcome == "fail"
    assert "at batch 8 is 80 ms" in one("latency <= 12ms at batch 8", *found).reason


def test_what_was_not_measured_is_inconclusive_and_says_so() -> None:
    verdict = one("latency.p99 <= 12ms", latency(10.0, 1))
    assert verdict.outcome == "inconclusive"
    assert "latency.p99 was not measured for int8@ort" in verdict.reason
    assert "raise measure.latency.seconds" in verdict.reason


def test_a_number_that_is_none_is_inconclusive() -> None:
    verdict = one("top1 drop <= 0.5pp", drop(math.nan, math.nan, math.nan))
    assert verdict.outcome == "inconclusive"
    assert "not a finite number" in verdict.reason


def test_a_unit_that_does_not_fit_is_inconclusive() -> None:
    verdict = one("spearman drop <= 0.5pp", drop(0.001, 0.0, 0.002, metric="spearman", unit=""))
    assert verdict.outcome == "inconclusive"
    assert "no unit" in verdict.reason


def subjects(text: str, candidates: list[Candidate], baseline: str | None) -> list[tuple[str, str]]:
    return [(v.subject, v.outcome) for v in judge([parse(text)], [], candidates, baseline)]


def test_the_baseline_is_not_judged_unless_it_is_named_or_alone() -> None:
    other = Candidate("fp32", "vino", (), {})
    every = [FP32, INT8, other]
    assert [s for s, _ in subjects("top1 >= 1", every, "fp32")] == ["int8@ort"]
    assert [s for s, _ in subjects("top1 >= 1", every, "fp32@ort")] == ["int8@ort", "fp32@vino"]
    assert [s for s, _ in subjects("fp32: top1 >= 1", every, "fp32")] == ["fp32@ort", "fp32@vino"]
    assert [s for s, _ in subjects("@vino: top1 >= 1", every, "fp32@ort")] == ["fp32@vino"]
    assert [s for s, _ in subjects("top1 >= 1", [FP32], "fp32")] == ["fp32@ort"]
    assert [s for s, _ in subjects("top1 >= 1", every, None)] == ["fp32@ort", "int8@ort", "fp32@vino"]


def test_a_gate_about_nothing_is_inconclusive_never_passed() -> None:
    skipped = replace(INT8, skipped="no kernels")
    assert subjects("top1 drop <= 1pp", [FP32, skipped], "fp32") == [("every variant", "inconclusive")]
    assert subjects("int8: top1 drop <= 1pp", [FP32, skipped], "fp32") == [("int8@ort", "inconclusive")]
    assert subjects("gone@vino: top1 >= 1", [FP32], None) == [("gone@vino", "inconclusive")]


def test_the_outcome_is_the_worst_verdict() -> None:
    made = {o: Verdict("g", "s", o, "r") for o in ("pass", "inconclusive", "fail")}
    assert outcome([]) == "not gated"
    assert outcome([made["pass"]]) == "pass"
    assert outcome([made["pass"], made["inconclusive"]]) == "inconclusive"
    assert outcome(made.values()) == "fail"


numbers = st.floats(-100, 100)
widths = st.floats(0, 50)
gates = st.sampled_from(["top1 drop <= {}pp", "top1 drop < {}pp", "top1 >= {}%", "top1 > {}%"])


def decided(text: str, limit: float, value: float, below: float, above: float) -> str:
    relation, unit = ("drop", "pp") if "drop" in text else ("absolute", "%")
    found = drop(value, value - below, value + above, relation=relation, unit=unit)
    return one(text.format(f"{limit:.6f}"), found).outcome


@settings(deadline=None)
@given(gates, numbers, numbers, widths, widths, widths, widths)
def test_more_doubt_never_makes_a_decision(
    text: str, limit: float, value: float, below: float, above: float, more_below: float, more_above: float
) -> None:
    narrow = decided(text, limit, value, below, above)
    wide = decided(text, limit, value, below + more_below, above + more_above)
    assert wide in (narrow, "inconclusive")


@settings(deadline=None)
@given(gates, numbers, numbers, widths, widths, widths)
def test_a_better_result_is_never_judged_worse(
    text: str, limit: float, value: float, below: float, above: float, gain: float
) -> None:
    rank = ["fail", "inconclusive", "pass"]
    better = value - gain if "<" in text else value + gain
    assert rank.index(decided(text, limit, better, below, above)) >= rank.index(
        decided(text, limit, value, below, above)
    )


@settings(deadline=None)
@given(gates, numbers, numbers)
def test_an_exact_value_is_always_decided(text: str, limit: float, value: float) -> None:
    assert decided(text, limit, value, 0.0, 0.0) != "inconclusive"


def test_reasons_hold_no_negative_zero_and_rates_one_unit() -> None:
    assert "is 0 pp (95 % interval 0 to 0 pp" in one("top1 drop <= 1pp", drop(-0.0, -0.0, -0.0)).reason
    rate = Measurement("int8@ort", "throughput", "absolute", 120.0, 110.0, 130.0, 9, "1/s", "higher", at={"batch": 1})
    reason = one("throughput >= 100/s", rate).reason
    assert reason.endswith("is 120/s (95 % interval 110 to 130/s, n = 9), all of it >= 100/s.")
