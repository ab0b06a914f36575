"""Intervals of changes: known answers, and coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from optimizer.comparison import intervals
from optimizer.comparison.rules import decide, limit_of
from optimizer.measure.quantiles import Estimate, noise_floor


def test_the_ratio_of_restarts_is_the_ratio_of_their_geometric_means() -> None:
    found = intervals.of_restarts([1.0, 4.0], [2.0, 8.0])
    assert found.value == pytest.approx(2.0)
    assert found.low < 2.0 < found.high


def test_welch_on_the_log_scale_agrees_with_a_textbook_case() -> None:
    # Logs 0, 1, 2 and 1, 3, 5: means 1 and 3, variances 1 and 4; Welch: se = sqrt(5/3), 2.94 degrees of freedom,
    # rounded down to 2, where t(97.5 %) = 4.3027.
    found = intervals.of_restarts(np.exp([0, 1, 2]).tolist(), np.exp([1, 3, 5]).tolist())
    half = 4.302653 * math.sqrt(5 / 3)
    assert math.log(found.value) == pytest.approx(2.0)
    assert math.log(found.low) == pytest.approx(2 - half, rel=1e-6)
    assert math.log(found.high) == pytest.approx(2 + half, rel=1e-6)


def test_restarts_without_any_spread_leave_the_noise_floors_alone() -> None:
    found = intervals.of_restarts([1.0, 1.0], [1.1, 1.1], [0.03, 0.04])
    half = math.hypot(math.log1p(0.03), math.log1p(0.04))
    assert math.log(found.high / found.value) == pytest.approx(half)
    assert math.log(found.value / found.low) == pytest.approx(half)


def test_noise_floors_only_widen() -> None:
    plain = intervals.of_restarts([1.0, 1.02, 0.99], [1.0, 1.01, 0.98])
    wide = intervals.of_restarts([1.0, 1.02, 0.99], [1.0, 1.01, 0.98], [0.05])
    assert wide.low < plain.low < plain.high < wide.high
    assert wide.value == plain.value


@pytest.mark.parametrize(
    ("restarts", "spread"), [((3, 3), (0.01, 0.05)), ((4, 8), (0.03, 0.03)), ((10, 4), (0.1, 0.02))]
)
def test_welch_covers_the_true_ratio(restarts: tuple[int, int], spread: tuple[float, float]) -> None:
    random = np.random.default_rng(3)
    hits = 0
    for _ in range(600):
        before, after = (np.exp(s * random.standard_normal(n)) for n, s in zip(restarts, spread, strict=True))
        found = intervals.of_restarts(before.tolist(), (1.07 * after).tolist())
        hits += found.low <= 1.07 <= found.high
    assert hits / 600 >= 0.93


def test_square_and_add_reduces_to_root_sum_of_squares_when_symmetric() -> None:
    found = intervals.difference(Estimate(10, 7, 13), Estimate(6, 2, 10))
    assert (found.value, found.low, found.high) == (4, 4 - 5, 4 + 5)


def test_square_and_add_takes_the_ends_that_matter() -> None:
    # Towards a smaller difference: the low end of the first, the high end of the second.
    found = intervals.difference(Estimate(10, 10, 13), Estimate(6, 2, 6))
    assert found.low == 4
    assert found.high == pytest.approx(4 + 5)


def test_the_ratio_of_two_intervals_is_symmetric_under_exchange() -> None:
    a, b = Estimate(2.0, 1.5, 3.0), Estimate(5.0, 4.0, 5.5)
    there, back = intervals.of_intervals(a, b), intervals.of_intervals(b, a)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high)
    assert there.high == pytest.approx(1 / back.low)


def test_an_absurd_spread_still_gives_numbers() -> None:
    found = intervals.of_restarts([1e-9, 1e9], [1e9, 1e-9])
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


@pytest.mark.parametrize("day", [0.0, 0.01])
def test_two_days_seldom_cry_wolf_and_a_tenth_is_seen(day: float) -> None:
    """Sessions of four restarts whose level moves from day to day: against the default tolerance of 5 %."""
    random = np.random.default_rng(5)

    def session(level: float) -> list[float]:
        moved = level * np.exp(day * random.standard_normal() + 0.005 * random.standard_normal(4))
        return [float(v) for v in moved]

    def failures(true: float) -> float:
        found = 0
        for _ in range(500):
            before, after = session(1.0), session(true)
            floors = [noise_floor(np.array(s)) for s in (before, after)]
            ratio = intervals.of_restarts(before, after, floors)
            found += decide(ratio.low, ratio.high, limit_of(0.05, higher=False), below=True) == "fail"
        return found / 500

    assert failures(1.0) <= 0.01
    assert failures(1.10) >= 0.9
