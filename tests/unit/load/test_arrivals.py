"""Arrivals are Poisson and repeatable; a bound holds or is missed by a binomial test."""

from __future__ import annotations

import numpy as np
import pytest
from load_lab import queue

from optimizer.measure.arrivals import answer, at_most, crowding, hopeless, schedule
from optimizer.measure.quantiles import support


def test_arrivals_are_poisson_at_their_rate() -> None:
    due = schedule(200.0, 20_000, "0/0")
    gaps = np.diff(due) / 1e9
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.03)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # exponential: spread equals mean
    counts = np.histogram(due, bins=np.arange(0, due[-1], 1e8))[0]
    assert counts.var() == pytest.approx(counts.mean(), rel=0.15)  # and so are counts in equal spans
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03


def test_a_seed_gives_the_same_arrivals_and_another_gives_others() -> None:
    assert schedule(5.0, 50, "7/0").tolist() == schedule(5.0, 50, "7/0").tolist()
    assert schedule(5.0, 50, "7/0").tolist() != schedule(5.0, 50, "7/1").tolist()


def test_the_binomial_distribution_is_exact() -> None:
    assert at_most(0, 299, 0.01) == pytest.approx(0.99**299)
    assert at_most(2, 4, 0.5) == pytest.approx(11 / 16)
    assert at_most(10, 10, 0.3) == pytest.approx(1.0)
    assert at_most(0, 10, 0.0) == 1.0


@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_no_late_request_holds_with_exactly_as_many_as_the_percentile_needs(percentile: int) -> None:
    assert answer(0, support(percentile), percentile) == "held"
    if percentile > 50:
        assert answer(0, support(percentile) - 1, percentile) == "undecided"


def test_between_held_and_missed_lies_undecided() -> None:
    answers = [answer(late, 600, 99) for late in range(25)]
    assert answers[0] == "held"
    assert answers[6] == "undecided"  # exactly 1 % late says nothing
    assert answers[-1] == "missed"
    order = ["held", "undecided", "missed"]
    assert [order.index(a) for a in answers] == sorted(order.index(a) for a in answers)


def test_hopeless_is_far_beyond_what_the_percentile_allows() -> None:
    late = hopeless(900, 99)
    assert late == 46
    assert answer(late, 900, 99, crowding=10.0) == "missed"
    assert hopeless(100, 50) == 75  # not 250: half are allowed
    assert hopeless(1, 99) == 1
    assert at_most(9, 5, 0.1) == 1.0


def test_late_requests_of_one_crowd_count_as_one() -> None:
    calm = np.random.default_rng(0).exponential(1.0, 3000)
    assert crowding(calm, 99) == pytest.approx(1.8, abs=0.4)  # chance neighbours among independent ones
    crowd = calm.copy()
    crowd[500:530] += 100
    crowd[2000:2060] += 100
    assert crowding(crowd, 99) > 20
    assert crowding([5.0] * 50, 99) == 1.0
    assert answer(0, 900, 99, 1.0) == "held"
    assert answer(0, 900, 99, 4.0) == "undecided"  # 225 groups are fewer than 299


def test_a_percentile_on_the_bound_is_rarely_held_although_requests_queue() -> None:
    service, rate = 4e6, 142.5
    bound = np.quantile(queue(schedule(rate, 30_000, "truth"), service, 1), 0.99)
    naive = grouped = 0
    for run in range(100):
        times = queue(schedule(rate, 900, run), service, 1)
        late = int((times > bound).sum())
        naive += answer(late, 900, 99) == "held"
        grouped += answer(late, 900, 99, crowding(times, 99)) == "held"
    assert naive > 20  # what taking requests as independent would claim with 95 % confidence
    assert grouped <= 8


def test_a_true_percentile_on_the_bound_is_rarely_decided() -> None:
    rng = np.random.default_rng(1)
    found = [answer(int(late), 600, 99) for late in rng.binomial(600, 0.01, 2000)]
    assert found.count("held") / 2000 < 0.06
    assert found.count("missed") / 2000 < 0.06
