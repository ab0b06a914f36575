"""Percentiles, ratios and their intervals: exact on small input, honest on simulated machines."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from optimizer.measure import quantiles
from optimizer.measure.quantiles import Resamples, weights


def simulated(rng: np.random.Generator, between: float, shared: np.ndarray) -> np.ndarray:
    """Call times of one subject: processes differ, rounds share the machine's weather, calls are skewed."""
    restarts, rounds, _ = shared.shape
    process = rng.normal(0, between, (restarts, 1, 1))
    block = rng.normal(0, 0.02, (restarts, rounds, 1))
    return np.exp(process + block + shared + rng.gamma(2, 0.02, (restarts, rounds, 6)))


def test_no_percentile_that_the_count_cannot_support() -> None:
    assert [quantiles.support(p) for p in (50, 90, 95, 99)] == [10, 29, 59, 299]


@pytest.mark.parametrize("level", [0.9, 0.95, 0.9975])
@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, math.inf])
def test_student_agrees_with_scipy(freedom: float, level: float) -> None:
    assert quantiles.student(freedom, level) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-6)


def test_broken_degrees_of_freedom_widen() -> None:
    assert quantiles.student(3.9) == quantiles.student(3)
    assert quantiles.student(0.4) == quantiles.student(1)


def test_weights_draw_restarts_then_rounds() -> None:
    weight = weights(3, 5, seed=1, draws=500)
    assert weight.shape == (500, 15)
    assert (weight.sum(axis=1) == 15).all()
    per_restart = weight.reshape(500, 3, 5).sum(axis=2)
    assert (per_restart % 5 == 0).all()  # a restart comes whole, as often as it was drawn
    assert (per_restart == 0).any()
    assert np.array_equal(weight, weights(3, 5, seed=1, draws=500))


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9), st.sampled_from([50, 90, 95, 99]), st.integers(0, 99))
def test_draws_are_the_weighted_quantile(restarts: int, rounds: int, calls: int, percentile: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    times = rng.integers(1, 50, (restarts, rounds, calls))
    weight = weights(restarts, rounds, seed, draws=7)
    drawn, center = quantiles.quantile_draws(times, weight, percentile)
    blocks = times.reshape(-1, calls)
    assert center == np.quantile(blocks, percentile / 100, method="inverted_cdf")
    for row, value in zip(weight.astype(int), drawn, strict=True):
        repeated = np.repeat(blocks, row, axis=0)
        assert value == np.quantile(repeated, percentile / 100, method="inverted_cdf")


def test_many_distinct_times_are_binned_without_harm() -> None:
    times = np.random.default_rng(0).gamma(2, 1, (4, 10, 2000))
    weight = weights(4, 10, 0)
    for percentile in (50, 99):
        _, center = quantiles.quantile_draws(times, weight, percentile)
        assert center == pytest.approx(np.quantile(times, percentile / 100), rel=0.01)


def test_a_ratio_of_equal_times_is_one_without_doubt() -> None:
    times = np.random.default_rng(0).gamma(2, 1, (4, 10, 20))
    found = quantiles.quantile_ratio(times, times, Resamples(weights(4, 10, 0)), 50)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_pairing_removes_what_rounds_share() -> None:
    rng = np.random.default_rng(3)
    weather = rng.normal(0, 0.5, (6, 10, 1))
    a, b = (np.exp(weather + rng.normal(0, 0.01, (6, 10, 6))) for _ in range(2))
    weight = Resamples(weights(6, 10, 0))
    ratio = quantiles.rate_ratio(a, 2 * b, weight)
    alone = quantiles.rate(a, weight)
    assert ratio.value == pytest.approx(2, rel=0.02)
    assert math.log(ratio.high / ratio.low) < 0.1 * math.log(alone.high / alone.low)


@pytest.mark.parametrize("between", [0.0, 0.05])
@pytest.mark.parametrize("restarts", [2, 4])
def test_the_interval_of_an_a_a_ratio_holds_one(restarts: int, between: float) -> None:
    rng = np.random.default_rng(restarts)
    held, runs = 0, 120
    for run in range(runs):
        weather = rng.normal(0, 0.03, (restarts, 8, 1))
        a, b = simulated(rng, between, weather), simulated(rng, between, weather)
        found = quantiles.quantile_ratio(a, b, Resamples(weights(restarts, 8, run, draws=400)), 50)
        assert found.low <= found.value <= found.high
        held += found.low <= 1 <= found.high
    # 95 % nominal; four standard errors of 120 runs below it
    assert held >= runs * 0.95 - 4 * math.sqrt(runs * 0.95 * 0.05)


def test_a_real_difference_is_seen_and_measured() -> None:
    rng = np.random.default_rng(0)
    weather = rng.normal(0, 0.03, (5, 10, 1))
    found = quantiles.quantile_ratio(
        3 * simulated(rng, 0.01, weather), simulated(rng, 0.01, weather), Resamples(weights(5, 10, 0)), 50
    )
    assert 2.7 < found.low < found.value < found.high < 3.3


def test_rate_is_calls_over_their_time() -> None:
    times = np.array([[[1.0, 3.0], [2.0, 2.0]]])
    assert quantiles.rate(times, Resamples(weights(1, 2, 0))).value == pytest.approx(0.5)


def test_one_number_per_restart_gets_students_interval() -> None:
    values = [10.0, 11.0, 12.0, 10.5]
    found = quantiles.of_restarts(values)
    expected = stats.t.interval(0.95, 3, np.log(values).mean(), stats.sem(np.log(values)))
    assert found.value == pytest.approx(stats.gmean(values))
    assert np.log([found.low, found.high]) == pytest.approx(expected, rel=1e-3)
    assert math.isfinite(quantiles.of_restarts([1e-9, 1e9]).high)


def test_the_noise_floor_is_what_a_a_comparisons_show() -> None:
    rng = np.random.default_rng(0)
    restarts = np.exp(rng.normal(0, 0.03, (2000, 2, 5)))
    differences = np.abs(np.log(restarts[:, 0]).mean(axis=1) - np.log(restarts[:, 1]).mean(axis=1))
    floors = np.log1p([quantiles.noise_floor(pair[0]) for pair in restarts])
    # The floor is taken from one subject alone; its mean and spread are independent, so Student's t is exact.
    assert np.mean(differences <= floors) == pytest.approx(0.95, abs=0.015)
