"""Intervals: against oracles, symmetric, repeatable, covering as often as they promise."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer import registry
from optimizer.measure import shares, statistics

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


@given(n=st.integers(2, 800), margin=st.integers(-3000, 3000), data=st.data())
def test_noninferiority_is_the_test_that_the_interval_inverts(n: int, margin: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    delta = margin / 10_000
    p, (low, high) = shares.noninferiority(lost, gained, n, delta), shares.tango(lost, gained, n)
    assert 0 <= p <= 1
    if abs(high - delta) > 1e-9:
        assert (p < 0.025) == (high < delta)
    if abs(low - delta) > 1e-9:
        assert (p > 0.975) == (low > delta)


def test_noninferiority_holds_its_level_at_the_margin() -> None:
    generator, n, margin = np.random.default_rng(0), 300, 0.02
    drawn = generator.multinomial(n, [0.04, 0.02, 0.94], size=4000)  # the true drop is the margin itself
    found = [shares.noninferiority(int(a), int(b), n, margin) for a, b, _ in drawn]
    assert 0.01 < np.mean(np.array(found) < 0.025) < 0.035


@given(n=st.integers(1, 500), hits=st.integers(0, 500), limit=st.integers(0, 10_000), below=st.booleans())
def test_the_p_value_of_a_share_is_the_test_that_wilson_inverts(n: int, hits: int, limit: int, below: bool) -> None:
    hits = min(hits, n)
    share = limit / 10_000
    p, (low, high) = shares.share_p(hits, n, share, below), shares.wilson(hits, n)
    end = high if below else low
    if abs(end - share) > 1e-9:
        assert (p < 0.025) == (end < share if below else end > share)


def test_the_resolvable_drop_is_what_a_candidate_without_one_just_passes() -> None:
    assert shares.resolvable(10_000, 0.02) == pytest.approx(1.96 * math.sqrt(0.02 / 10_000), rel=0.02)
    lost = 100
    assert shares.tango(lost, lost, 10_000)[1] == shares.resolvable(10_000, 0.02)
    assert shares.resolvable(1000, 0) == pytest.approx(shares.unseen(1000))


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


def variance(rows: np.ndarray) -> float:
    return float(rows[:, 0].var())


def variances(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    total, x = counts.sum(axis=1), rows[:, 0]
    found: np.ndarray = counts @ (x * x) / total - (counts @ x / total) ** 2
    return found


def test_bca_covers_a_skewed_statistic_better_than_percentiles() -> None:
    def misses(corrected: bool) -> np.ndarray:
        generator, found = np.random.default_rng(1), np.zeros(2)
        for seed in range(500):
            rows = generator.normal(size=(50, 1))
            low, high = statistics.bootstrap(rows, variance, seed, 500, variances, corrected).ends()
            found += [low > 1, high < 1]
        return found / 500

    bca, percentile = misses(True), misses(False)
    assert 0.925 <= 1 - bca.sum() <= 0.975, "the promised 95 %"
    assert bca.sum() < percentile.sum() and np.ptp(bca) < np.ptp(percentile), "more often right, and on both sides"


def test_bca_agrees_with_scipy() -> None:
    rows = np.random.default_rng(3).exponential(size=(400, 1))
    wanted = scipy.stats.bootstrap((rows[:, 0],), np.var, n_resamples=20_000, rng=0).confidence_interval
    drawn = statistics.bootstrap(rows, variance, 0, 20_000, variances)
    assert drawn.method == "BCa bootstrap"
    assert drawn.ends() == pytest.approx(tuple(wanted), rel=0.02)


def test_grouped_and_single_jackknife_estimate_the_same() -> None:
    rows = np.random.default_rng(0).exponential(size=(2000, 1))
    influence = rows[:, 0] - rows[:, 0].mean()
    exact = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    drawn = statistics.bootstrap(rows, mean, 0, 500, TOP1_MEANS)
    assert drawn.acceleration == pytest.approx(exact, abs=0.003)
    error = statistics.standard_error(rows, mean, 0, TOP1_MEANS)
    assert error == pytest.approx(rows.std() / math.sqrt(2000), rel=0.1)


def test_rows_without_spread_fall_back_to_percentiles_and_say_so() -> None:
    drawn = statistics.bootstrap(np.full((30, 1), 0.7), mean, 0, 200, TOP1_MEANS)
    assert drawn.method == "percentile bootstrap" and drawn.ends() == pytest.approx((0.7, 0.7))
    assert drawn.p_at_least(0.8) == pytest.approx(1 / 201) and drawn.p_at_least(0.6) > 0.99


@pytest.mark.parametrize("corrected", [True, False])
@given(seed=st.integers(0, 200), shift=st.floats(-0.5, 0.5))
@settings(max_examples=25, deadline=None)
def test_p_values_of_the_bootstrap_invert_its_interval(corrected: bool, seed: int, shift: float) -> None:
    rows = np.random.default_rng(seed).exponential(size=(40, 1))
    drawn = statistics.bootstrap(rows, mean, seed, 1000, TOP1_MEANS, corrected)
    low, high = drawn.ends()
    limit = drawn.value + shift
    if abs(limit - high) > 0.02:
        assert (drawn.p_at_least(limit) < 0.025) == (high < limit)
    if abs(limit - low) > 0.02:
        assert (drawn.mirrored().p_at_least(-limit) < 0.025) == (low > limit)
    wide = [drawn.ends(level) for level in (0.95, 0.99, 0.9999)]
    assert wide[0][0] >= wide[1][0] >= wide[2][0] and wide[0][1] <= wide[1][1] <= wide[2][1]


def test_the_floor_counts_in_p_values_too() -> None:
    rows = np.random.default_rng(1).normal(size=(1000, 2))
    rows[:, 1] += rows[:, 0]
    drawn = statistics.paired(rows, rows, SPEARMAN.summarize, 0, 200, SPEARMAN.weighted)
    high = drawn.ends()[1]
    assert drawn.p_at_least(high) == pytest.approx(0.025, abs=1e-6) and drawn.p_at_least(2 * high) < 0.006


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
