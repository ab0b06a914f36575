"""How gates hold on the select data: by intervals there, foretold for the evaluation data, by values, or not at all."""

from __future__ import annotations

import pytest
from search_lab import Truth, drop

from optimizer import gates
from optimizer.search.standing import stand
from optimizer.values import Candidate, Measurement, Relation

BEST = Candidate("best", "a", (), {})


def measured(metric: str, relation: Relation, value: float, **more: object) -> Measurement:
    fields: dict[str, object] = {"low": None, "high": None, "n": 1, "unit": "x", "better": "lower", **more}
    return Measurement("best@a", metric, relation, value, against="fp32@a", **fields)  # type: ignore[arg-type]  # as given


@pytest.mark.parametrize(
    ("value", "half", "examples", "level"),
    [
        (0.1, 0.5, 1000, "sure"),
        (0.7, 0.5, 100_000, "likely"),  # a hundred times the examples: a tenth of the interval
        (0.7, 0.5, 1000, "possible"),
        (1.0, 0.5, 1000, "possible"),
        (1.1, 0.5, 1000, "broken"),
    ],
)
def test_levels(value: float, half: float, examples: int, level: str) -> None:
    found = [drop("best@a", Truth(1.0, value, half=half))]
    assert stand([gates.parse("top1 drop <= 1pp")], found, BEST, "fp32", examples).level == level


def test_every_gate_counts_and_the_gap_names_each_that_is_broken() -> None:
    given = [gates.parse(text) for text in ("top1 drop <= 1pp", "size ratio <= 0.4", "latency.p50 speedup >= 2x")]
    found = [
        drop("best@a", Truth(1.0, 0.0)),
        measured("size", "ratio", 0.5),
        measured("latency.p50", "speedup", 1.5, better="higher"),
    ]
    held = stand(given, found, BEST, "fp32", 1000)
    assert held.level == "broken"
    assert held.gap == "size ratio 0.5x, the gate asks <= 0.4x; latency.p50 speedup 1.5x, the gate asks >= 2x"
    assert held.excess == pytest.approx(0.1 / 0.4 + 0.5 / 2)


def test_gates_about_others_and_about_what_was_not_measured_are_passed_over() -> None:
    given = [gates.parse(text) for text in ("int8: size ratio <= 0.1", "@b: size ratio <= 0.1", "server.p99 <= 5ms")]
    assert stand(given, [measured("size", "ratio", 0.5)], BEST, "fp32", 1000).level == "sure"
    own = [gates.parse("best: size ratio <= 0.1")]
    assert stand(own, [measured("size", "ratio", 0.5)], BEST, "fp32", 1000).level == "broken"


def test_a_limit_of_zero_has_a_gap_too() -> None:
    held = stand([gates.parse("top1 drop <= 0pp")], [drop("best@a", Truth(1.0, 0.4))], BEST, "fp32", 1000)
    assert held.excess == pytest.approx(1.0)
