"""Several candidates, one gate, one data set: Holm's correction, and what the reason says of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.gates import judge, parse
from optimizer.gates.family import holm
from optimizer.values import Candidate, Measurement, Verdict

NAMES = ("a", "b", "c")
FP32 = Candidate("fp32", "ort", (), {})


def drop(variant: str, p: float | None, high: float = 0.4, **more: Any) -> Measurement:
    protocol = {} if p is None else {"limit_p": {"0.5": p}}
    given = {"against": "fp32@ort", "protocol": protocol, **more}
    return Measurement(f"{variant}@ort", "top1", "drop", 0.1, -0.2, high, 1000, "pp", "lower", **given)


def verdicts(*p_values: float | None, **more: Any) -> list[Verdict]:
    names = NAMES[: len(p_values)]
    found = [drop(name, p, **more) for name, p in zip(names, p_values, strict=True)]
    return judge([parse("top1 drop <= 0.5pp")], found, [FP32, *(Candidate(n, "ort", (), {}) for n in names)], "fp32")


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.7, 0.9]) == pytest.approx([1.0, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_never_smaller_never_beyond_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    found = holm(p_values)
    for own, adjusted in zip(p_values, found, strict=True):
        assert own <= adjusted <= min(1.0, len(p_values) * own)
    ranked = sorted(range(len(found)), key=p_values.__getitem__)
    assert [found[i] for i in ranked] == sorted(found)


def test_one_candidate_is_judged_by_its_interval_alone() -> None:
    (verdict,) = verdicts(0.02)
    assert verdict.outcome == "pass"
    assert "n = 1000; p = 0.02 for a drop of 0.5 pp or more), all of it <= 0.5 pp." in verdict.reason
    assert "Holm" not in verdict.reason


def test_a_pass_among_several_must_survive_the_correction() -> None:
    found = verdicts(0.0001, 0.011, 0.02)
    # Adjusted: 0.0003, then 2 x 0.011 = 0.022, then 0.022 again (a larger p is never adjusted below a smaller one).
    assert [v.outcome for v in found] == ["pass", "pass", "pass"]
    assert "p = 0.02 for a drop of 0.5 pp or more, 0.022 with Holm's correction for 3 candidates" in found[2].reason
    found = verdicts(0.0001, 0.02, 0.022)
    assert [v.outcome for v in found] == ["pass", "inconclusive", "inconclusive"]
    assert "Alone it would pass" in found[1].reason and "the corrected p is not below 0.025" in found[1].reason


def test_the_correction_never_turns_a_fail_into_anything_else() -> None:
    bad = [drop(n, 0.99, high=0.9) for n in NAMES]
    bad = [Measurement(**{**vars(m), "low": 0.6, "value": 0.7}) for m in bad]
    candidates = [FP32, *(Candidate(n, "ort", (), {}) for n in NAMES)]
    found = judge([parse("top1 drop <= 0.5pp")], bad, candidates, "fp32")
    assert [v.outcome for v in found] == ["fail"] * 3


def test_measurements_without_a_p_value_are_judged_as_before() -> None:
    found = verdicts(None, None)
    assert [v.outcome for v in found] == ["pass", "pass"] and "p =" not in found[0].reason
    assert [v.outcome for v in verdicts(0.02, None)] == ["pass", "pass"], "a family of one"
