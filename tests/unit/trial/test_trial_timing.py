"""Whoever dies is named and left out; the others are measured together. On a clock of their own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "latency"))
from latency_lab import SAMPLES, Lab, subject

from optimizer import gates
from optimizer.console import Console
from optimizer.errors import OptimizerError
from optimizer.recipe import LatencySpec
from optimizer.trial import timing

SPEC = LatencySpec(batch=[1], seconds=0.02, restarts=2)
NAMES = ["a@fake", "b@fake", "c@fake"]
Measure = Callable[[str | None], timing.Timed]


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Measure:
    def run(doomed: str | None, event: str = "run") -> timing.Timed:
        lab = Lab(lambda name, restart: 100_000.0, fail_at=(doomed, event) if doomed else None)
        lab.error = OptimizerError("it fell; its last words:\n  ouch")
        monkeypatch.setattr(timing, "LAUNCH", lab.launch)
        against = {"a@fake": None, "b@fake": "a@fake", "c@fake": "a@fake"}
        found = timing.measure([subject(n) for n in NAMES], against, SAMPLES, SPEC, {}, 0, Console(level=0))
        assert lab.alive == set(), "no process outlives the call"
        return found

    return run


def speedups(found: timing.Timed) -> dict[str, str | None]:
    return {m.subject: m.against for m in found.measurements if (m.metric, m.relation) == ("latency.p50", "speedup")}


def test_all_alive(measure: Measure) -> None:
    found = measure(None)
    assert found.dead == {}
    assert speedups(found) == {"b@fake": "a@fake", "c@fake": "a@fake"}


def test_a_candidate_that_dies_is_left_out(measure: Measure) -> None:
    found = measure("c@fake")
    assert "ouch" in found.dead["c@fake"].message
    assert {m.subject for m in found.measurements} == {"a@fake", "b@fake"}
    assert speedups(found) == {"b@fake": "a@fake"}


def test_when_the_baseline_dies_the_next_takes_its_place(measure: Measure) -> None:
    found = measure("a@fake")
    assert list(found.dead) == ["a@fake"]
    assert speedups(found) == {"c@fake": "b@fake"}


def test_it_measures_until_the_gate_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    def restarts(limit: str) -> int:
        lab = Lab(lambda name, restart: 1e5 * (1 + 0.03 * (restart % 2) * (name == "b@fake")))
        monkeypatch.setattr(timing, "LAUNCH", lab.launch)
        setting = SPEC.model_copy(update={"precision": None, "most_restarts": 8})
        gate = gates.parse(f"latency.p50 speedup >= {limit} at batch 1")
        pair = [subject("a@fake"), subject("b@fake")]
        against = {"a@fake": None, "b@fake": "a@fake"}
        found = timing.measure(pair, against, SAMPLES, setting, {}, 0, Console(level=0), [gate])
        return next(m.protocol["restarts"] for m in found.measurements if m.metric == "latency.p50")

    assert restarts("0.1x") == 2
    assert restarts("0.985x") == 8


def test_other_errors_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OptimizerError("not about one subject")

    monkeypatch.setattr(timing.latency, "measure", refuse)
    with pytest.raises(OptimizerError, match="not about one subject"):
        timing.measure([subject("a@fake")], {"a@fake": None}, SAMPLES, SPEC, {}, 0, Console(level=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 0.0}, "--seconds 0: measures nothing"),
        ({"restarts": 0}, "--restarts 0: measures nothing"),
        ({"budget": 0.0}, "--budget 0: measures nothing"),
        ({"threads": 0}, "--threads 0: measures nothing"),
        ({"batches": [0]}, "--batch 0: measures nothing"),
        ({"seconds": float("nan")}, "--seconds nan: measures nothing"),
    ],
)
def test_runs_of_no_length_say_the_least_allowed(changes: dict[str, Any], message: str) -> None:
    flags = {
        "batches": [1],
        "threads": None,
        "seconds": None,
        "restarts": None,
        "budget": None,
        "subjects": 2,
    } | changes
    with pytest.raises(OptimizerError, match=message) as caught:
        timing.spec(**flags)
    assert "the least allowed is" in str(caught.value.hint)


def test_a_budget_is_shared() -> None:
    spec = timing.spec([1], None, None, None, 30.0, 3)
    assert spec.seconds == pytest.approx(30 / 4 / timing.SHARE)
    assert timing.spec([1], None, 2.0, None, 30.0, 3).seconds == 2.0
