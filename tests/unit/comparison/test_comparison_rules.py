"""Tolerances as people write them."""

from __future__ import annotations

import pytest

from optimizer.comparison.rules import decide, limit_of, mapping, rules, tolerance_of
from optimizer.errors import OptimizerError


def test_the_defaults_are_the_documented_ones() -> None:
    known = rules()
    assert known.ratios == {"latency.p50": 0.05, "throughput": 0.05, "size": 0.01, "memory.peak": 0.10}
    assert tolerance_of("load.time", "ms", known) == (0.25, False)
    assert tolerance_of("top1", "%", known) == (0.5, True)
    assert tolerance_of("spearman", "", known) == (0.005, True)
    assert tolerance_of("wonder", "kg", known) == (None, True)


def test_flags_change_them() -> None:
    known = rules("1.2x", ["2pp", "0.1"], "3%", ["load.time=50%", "f1=0.02", "latency.p95=7%"])
    assert known.ratios["latency.p50"] == pytest.approx(0.2)
    assert known.ratios["throughput"] == pytest.approx(0.2)
    assert known.ratios["size"] == pytest.approx(0.03)
    assert tolerance_of("load.time", "ms", known) == (0.5, True), "asked for, so judged"
    assert tolerance_of("latency.p95", "ms", known) == (pytest.approx(0.07), True)
    assert tolerance_of("top1", "%", known) == (2.0, True)
    assert tolerance_of("f1", "", known) == (0.02, True)
    assert tolerance_of("pearson", "", known) == (0.1, True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"slowdown": "5"}, "--max-slowdown 5: is no tolerance"),
        ({"slowdown": "-5%"}, "--max-slowdown -5%: is no tolerance"),
        ({"slowdown": "0.9x"}, "--max-slowdown 0.9x: is no tolerance"),
        ({"drops": ["0.5%"]}, "--max-drop 0.5%: is no drop"),
        ({"growth": "much"}, "--max-growth much: is no tolerance"),
        ({"tolerances": ["load.time"]}, "--tolerance load.time: cannot be read"),
        ({"tolerances": ["latency.p51=3%"]}, "unknown metric 'latency.p51'"),
    ],
)
def test_what_cannot_be_read_is_refused(flags: dict[str, str], message: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        rules(**flags)  # type: ignore[arg-type]  # as a user would mistype it
    assert message in caught.value.message


def test_a_regression_needs_the_whole_interval() -> None:
    limit = limit_of(0.05, higher=False)
    assert decide(1.06, 1.2, limit, below=True) == "fail"
    assert decide(1.04, 1.2, limit, below=True) == "inconclusive"
    assert decide(0.5, 1.05, limit, below=True) == "pass"
    less = limit_of(0.05, higher=True)
    assert decide(0.8, 0.9, less, below=False) == "fail"
    assert decide(0.9, 1.0, less, below=False) == "inconclusive"
    assert decide(1 / 1.05, 1.0, less, below=False) == "pass"


def test_renames() -> None:
    assert mapping(["int8=small", "a@x=b@y"]) == {"int8": "small", "a@x": "b@y"}
    with pytest.raises(OptimizerError, match="--map int8"):
        mapping(["int8"])
