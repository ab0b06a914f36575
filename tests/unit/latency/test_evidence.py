"""Looks, paired ratios, diagnosis and conditions: against simulated machines with a known truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.measure import conditions, diagnosis, looks, ratios


@given(st.integers(1, 30), st.integers(1, 60))
def test_all_looks_together_spend_five_percent(least: int, most: int) -> None:
    goals = looks.goals(least, max(least, most))
    assert list(goals) == sorted(set(goals))
    assert goals[-1] == max(least, most)
    errors = [1 - looks.level(goals, k, k == len(goals) - 1) for k in range(len(goals))]
    assert sum(errors) == pytest.approx(0.05)
    assert all(error > 0 for error in errors)


def test_a_measurement_that_ends_early_spends_what_is_left() -> None:
    goals = looks.goals(4, 24)
    early = 1 - looks.level(goals, 0, False)
    assert 1 - looks.level(goals, 1, True) == pytest.approx(0.05 - early)


def test_looking_often_raises_no_false_alarm() -> None:
    """Stop at the first look whose interval excludes the truth: it happens in 5 % of all measurements at most."""
    rng = np.random.default_rng(5)
    goals, runs, alarms = looks.goals(4, 12), 300, 0
    for run in range(runs):
        process = rng.normal(0, 0.02, (2, 12, 1, 1))
        times = np.exp(process + rng.normal(0, 0.02, (2, 12, 6, 1)) + rng.gamma(2, 0.02, (2, 12, 6, 5)))
        for look, goal in enumerate(goals):
            level = looks.level(goals, look, look == len(goals) - 1)
            found = ratios.median_ratio(times[0, :goal], times[1, :goal], run, level)
            if not found.low <= 1 <= found.high:
                alarms += 1
                break
    # four standard errors of 300 runs above the nominal 5 %
    assert alarms <= runs * 0.05 + 4 * math.sqrt(runs * 0.05 * 0.95)


@pytest.mark.parametrize("restarts", [3, 6])
@pytest.mark.parametrize("between", [0.0, 0.03])
def test_the_paired_ratio_covers_the_truth(restarts: int, between: float) -> None:
    rng = np.random.default_rng(restarts)
    runs, held, true = 150, 0, 1.05
    for run in range(runs):
        weather = rng.normal(0, 0.1, (1, restarts, 8, 1))
        process = rng.normal(0, between, (2, restarts, 1, 1))
        times = np.exp(process + weather + rng.gamma(2, 0.02, (2, restarts, 8, 7)))
        found = ratios.median_ratio(times[0] * true, times[1], run)
        held += found.low <= true <= found.high
    assert held >= runs * 0.95 - 4 * math.sqrt(runs * 0.95 * 0.05)


def test_pairing_within_rounds_removes_the_weather() -> None:
    rng = np.random.default_rng(0)
    weather = rng.choice([0.0, 0.7], (5, 20, 1))  # half of all rounds are twice as slow
    a, b = (np.exp(weather + rng.normal(0, 0.01, (5, 20, 9))) for _ in range(2))
    found = ratios.median_ratio(1.05 * a, b, 0)
    assert 1.03 < found.low < found.value < found.high < 1.07


def test_a_spell_that_meets_one_subject_only_does_not_move_the_median_of_rounds() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.exp(rng.normal(0, 0.01, (5, 21, 9))) for _ in range(2))
    a[:, :5] *= 3
    assert ratios.median_ratio(a, b, 0).value == pytest.approx(1, abs=0.02)


def test_blocks_of_one_call_are_allowed_and_equal_times_are_without_doubt() -> None:
    times = np.full((2, 3, 1), 5.0)
    found = ratios.median_ratio(times, times, 0)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_drift_is_the_change_from_first_to_last() -> None:
    rng = np.random.default_rng(0)
    slope = np.linspace(1, 1.2, 40).reshape(4, 10, 1)
    assert diagnosis.drift(slope * rng.normal(1, 0.005, (4, 10, 20))) == pytest.approx(0.2 / 1.1, abs=0.02)
    assert diagnosis.drift(rng.normal(1, 0.005, (4, 10, 20))) == pytest.approx(0, abs=0.01)
    assert diagnosis.drift(np.ones((1, 2, 3))) == 0.0


def test_dependent_calls_are_worth_fewer() -> None:
    rng = np.random.default_rng(0)
    free = rng.normal(0, 0.1, (4, 10, 50))
    rho, worth = diagnosis.autocorrelation(np.exp(free))
    assert abs(rho) < 0.1
    assert worth > 0.8 * free.size
    chain = np.zeros(2000)
    for i in range(1, 2000):
        chain[i] = 0.9 * chain[i - 1] + rng.normal(0, 0.1)
    rho, worth = diagnosis.autocorrelation(np.exp(chain.reshape(1, 10, 200)))
    assert rho == pytest.approx(0.9, abs=0.05)
    assert worth == pytest.approx(2000 * (1 - 0.9) / (1 + 0.9), rel=0.6)
    assert diagnosis.autocorrelation(np.ones((2, 2, 5))) == (0.0, 20)


def test_two_modes_are_seen_and_one_is_not_split() -> None:
    rng = np.random.default_rng(0)
    both = np.concatenate([rng.normal(1, 0.02, 700), rng.normal(1.4, 0.02, 300)])
    assert diagnosis.modes(both) == pytest.approx([1.0, 1.4], rel=0.02)
    assert len(diagnosis.modes(rng.normal(1, 0.02, 1000))) == 1
    assert len(diagnosis.modes(1 + rng.gamma(2, 0.05, 1000))) == 1
    assert len(diagnosis.modes(np.ones(1000))) == 1
    few = np.concatenate([rng.normal(1, 0.02, 990), rng.normal(3, 0.02, 10)])
    assert len(diagnosis.modes(few)) == 1  # one call in a hundred is a tail, no mode


def test_foreign_load_is_what_nobody_of_us_used() -> None:
    start = conditions.Snapshot(100.0, 50.0, 1.0, 5.0, (2000.0, 3000.0), 4)
    end = replace(start, at=110.0, busy=65.0, stolen=1.0, ours=6.0, mhz=(2500.0,), throttled=4)
    found = conditions.between(start, end, spent=9.0)
    assert found == {"foreign_load": 0.5, "steal": 0.0, "mhz": [2000.0, 3000.0], "throttled": False}
    hot = conditions.between(start, replace(end, throttled=5), spent=30.0)
    assert (hot["foreign_load"], hot["throttled"]) == (0.0, True)
    silent = conditions.between(replace(start, stolen=None, throttled=None, mhz=()), replace(end, mhz=()), 0.0)
    assert (silent["steal"], silent["mhz"], silent["throttled"]) == (None, None, None)


def test_conditions_of_restarts_are_joined() -> None:
    parts = [
        {"foreign_load": 0.0, "steal": 0.1, "mhz": [1.0, 2.0], "throttled": False},
        {"foreign_load": 1.0, "steal": None, "mhz": None, "throttled": True},
    ]
    assert conditions.joined(parts) == {"foreign_load": 0.5, "steal": 0.1, "mhz": [1.0, 2.0], "throttled": True}
    assert conditions.joined([]) == {}


def test_this_machine_can_be_asked() -> None:
    found = conditions.snapshot()
    assert found.busy > 0
    assert conditions.spent_by([2**22 + 1]) == 0.0
