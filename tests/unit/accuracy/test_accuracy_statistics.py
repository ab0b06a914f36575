"""Intervals: against oracles, symmetric, repeatable, covering as often as they promise."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from optimizer import registry
from optimizer.measure import statistics

SPEARMAN = registry.load("metrics", "spearman")
TOP1 = registry.load("metrics", "top1")


def mean(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean())


@given(n=st.integers(1, 3000), data=st.data())
def test_wilson_agrees_with_scipy(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert statistics.wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def _constrained(lost: int, gained: int, n: int, delta: float) -> float:
    """The score statistic by maximizing the likelihood numerically: no formula shared with the code."""
    rest = n - lost - gained

    def loss(q: float) -> float:
        chances = np.array([q + delta, q, 1 - 2 * q - delta])
        counts = np.array([lost, gained, rest])
        return -float(np.sum(counts[counts > 0] * np.log(np.maximum(chances[counts > 0], 1e-300))))

    low, high = max(0.0, -delta), (1 - delta) / 2
    q = scipy.optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return float((lost - gained - n * delta) / np.sqrt(n * (2 * q + delta - delta**2)))


@pytest.mark.parametrize(("lost", "gained", "n"), [(7, 1, 21), (3, 0, 50), (10, 12, 100), (40, 25, 1000), (1, 1, 10)])
def test_tango_ends_are_where_the_likelihood_score_is_critical(lost: int, gained: int, n: int) -> None:
    low, high = statistics.tango(lost, gained, n)
    assert _constrained(lost, gained, n, low) == pytest.approx(statistics.Z, abs=1e-3)
    assert _constrained(lost, gained, n, high) == pytest.approx(-statistics.Z, abs=1e-3)


@given(n=st.integers(1, 500), data=st.data())
def test_tango_is_symmetric_and_holds_the_value(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    low, high = statistics.tango(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n + 1e-9 and (lost - gained) / n - 1e-9 <= high <= 1
    assert low < high
    assert statistics.tango(gained, lost, n) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize("n", [10, 300, 10_000])
def test_no_discordant_example_is_no_proof_of_none(n: int) -> None:
    low, high = statistics.tango(0, 0, n)
    assert high == pytest.approx(statistics.unseen(n), rel=1e-6) and low == pytest.approx(-high)
    assert high > scipy.stats.beta.ppf(0.95, 1, n)  # not below the exact one-sided bound, about 3 / n


def test_tango_covers() -> None:
    generator = np.random.default_rng(0)
    n, chances = 200, [0.03, 0.01, 0.96]
    drawn = generator.multinomial(n, chances, size=2000)
    ends = {(a, b): statistics.tango(int(a), int(b), n) for a, b, _ in drawn}
    covered = np.mean([ends[a, b][0] <= 0.02 <= ends[a, b][1] for a, b, _ in drawn])
    assert 0.93 <= covered <= 0.985


@given(lost=st.integers(0, 60), gained=st.integers(0, 60))
def test_mcnemar_is_the_exact_binomial_test(lost: int, gained: int) -> None:
    expected = scipy.stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert statistics.mcnemar(lost, gained) == pytest.approx(expected, abs=1e-9)


@given(n=st.integers(1, 300), resamples=st.integers(1, 50), seed=st.integers(0, 99))
def test_draws_draw_n_examples(n: int, resamples: int, seed: int) -> None:
    counts = np.concatenate(list(statistics.draws(n, resamples, seed)))
    assert counts.shape == (resamples, n) and (counts.sum(axis=1) == n).all() and counts.min() >= 0


def test_the_seed_decides() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 1))
    first, again, other = (statistics.bootstrap(rows, mean, seed).ends() for seed in (3, 3, 4))
    assert first == again != other


def test_weighted_and_plain_summaries_give_the_same_interval() -> None:
    rows = np.round(np.random.default_rng(0).normal(size=(40, 2)), 1)
    plain = statistics.bootstrap(rows, SPEARMAN.summarize, 0, 300).ends()
    assert statistics.bootstrap(rows, SPEARMAN.summarize, 0, 300, SPEARMAN.weighted).ends() == pytest.approx(plain)


@pytest.mark.parametrize("n", [10, 80])
def test_the_bootstrap_covers_a_mean(n: int) -> None:
    generator = np.random.default_rng(n)

    def covers(seed: int) -> bool:
        low, high = statistics.bootstrap(generator.normal(size=(n, 1)), mean, seed, 400, TOP1_MEANS).ends()
        return low <= 0 <= high

    assert 0.92 <= np.mean([covers(s) for s in range(400)]) <= 0.985


def TOP1_MEANS(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    found: np.ndarray = TOP1.weighted(rows, counts) / 100
    return found


def test_the_paired_bootstrap_covers_and_is_narrower_than_unpaired() -> None:
    generator = np.random.default_rng(5)
    hits, widths = [], []
    for seed in range(300):
        base = generator.normal(size=(60, 1))
        after = base - 0.1 + 0.2 * generator.normal(size=(60, 1))
        low, high = statistics.paired(base, after, mean, seed, 400, TOP1_MEANS).ends()
        hits.append(low <= 0.1 <= high)
        widths.append(high - low)
    assert 0.92 <= np.mean(hits) <= 0.99
    low, high = statistics.bootstrap(base, mean, 0, 400, TOP1_MEANS).ends()
    assert np.median(widths) < (high - low) / 2


def test_paired_is_antisymmetric() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(200, 1)) + 5.0, generator.normal(size=(200, 1)) + 5.1
    low, high = statistics.paired(a, b, mean, 0).ends()
    back = statistics.paired(b, a, mean, 0).ends()
    assert back == pytest.approx((-high, -low), abs=1e-2)


def test_identical_rows_leave_room_for_what_n_cannot_see() -> None:
    rows = np.random.default_rng(1).normal(size=(1000, 2))
    rows[:, 1] += rows[:, 0]
    low, high = statistics.paired(rows, rows, SPEARMAN.summarize, 0, 200, SPEARMAN.weighted).ends()
    assert high == -low == pytest.approx(statistics.unseen(1000) * SPEARMAN.summarize(rows))


def test_thousands_of_pairs_are_resampled_fast() -> None:
    rows = np.random.default_rng(0).normal(size=(4927, 2))
    start = time.process_time()
    statistics.bootstrap(rows, SPEARMAN.summarize, 0, 200, SPEARMAN.weighted)
    fast = time.process_time() - start
    start = time.process_time()
    statistics.bootstrap(rows, lambda r: float(scipy.stats.spearmanr(r[:, 0], r[:, 1])[0]), 0, 200)
    assert fast < time.process_time() - start  # a ratio in one run, never milliseconds
