"""Metrics against scikit-learn and scipy, with ties, views and outputs that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimizer import registry, schema, scores
from optimizer.errors import OptimizerError
from optimizer.protocols import Batch

NAMES = sorted(set(registry.BUILT_IN["metrics"]) - {"map"})  # its rows are records, made in another test


def metric(name: str) -> Any:
    return registry.load("metrics", name)


def rows(name: str, made: Any, labels: Any = None, views: int = 1, **options: Any) -> np.ndarray:
    plugin = metric(name)
    count = len(made) // views
    batch = Batch({}, None if labels is None else np.asarray(labels), np.arange(count), views)
    outputs = {"first": np.asarray(made), "second": np.zeros((len(made), 7))}
    found: np.ndarray = plugin.examples(outputs, batch, schema.parse(plugin.Options, options, name))
    assert found.shape[0] == count and found.ndim == 2
    return found


def value(name: str, made: Any, labels: Any = None, views: int = 1, **options: Any) -> float:
    return float(metric(name).summarize(rows(name, made, labels, views, **options)))


def test_top1_and_top5_agree_with_sklearn() -> None:
    generator = np.random.default_rng(0)
    output, labels = generator.normal(size=(200, 9)), generator.integers(0, 9, 200)
    assert value("top1", output, labels) == pytest.approx(100 * (output.argmax(1) == labels).mean())
    expected = sklearn.metrics.top_k_accuracy_score(labels, output, k=5, labels=range(9))
    assert value("top5", output, labels) == pytest.approx(100 * expected)
    assert value("top1", output[:, :, None, None], labels) == value("top1", output, labels)


def test_a_model_that_says_nothing_is_not_right() -> None:
    assert value("top5", np.zeros((10, 10)), np.arange(10)) == 50
    assert value("top1", np.zeros((10, 10)), np.arange(10)) == 10


def test_f1_agrees_with_sklearn() -> None:
    generator = np.random.default_rng(1)
    output, labels = generator.normal(size=(120, 6)), generator.integers(0, 4, 120)
    predicted = output.argmax(1)
    expected = sklearn.metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    assert value("f1", output, labels) == pytest.approx(100 * expected)
    binary = sklearn.metrics.f1_score(labels == 2, predicted == 2)
    assert value("f1", output, labels, positive=2) == pytest.approx(100 * binary)
    assert value("f1", np.eye(2)[[0, 0]], [0, 0], positive=1) == 0


@given(
    arrays.arrays(np.float64, st.tuples(st.integers(3, 40), st.just(2)), elements=st.integers(-4, 4).map(float)),
)
def test_correlations_agree_with_scipy(table: np.ndarray) -> None:
    constant = (np.ptp(table, axis=0) == 0).any()
    for name, oracle in (("spearman", scipy.stats.spearmanr), ("pearson", scipy.stats.pearsonr)):
        expected = 0.0 if constant else oracle(table[:, 0], table[:, 1])[0]
        assert value(name, table[:, :1], table[:, 1]) == pytest.approx(expected, abs=1e-9)


@given(arrays.arrays(np.float64, st.integers(2, 30), elements=st.integers(-3, 3).map(float)))
def test_average_ranks_agree_with_scipy(values: np.ndarray) -> None:
    found = scores.average_ranks(values, scores.once(values[:, None]))[0]
    np.testing.assert_array_equal(found, scipy.stats.rankdata(values))


def _rows_for(name: str, generator: np.random.Generator, n: int) -> np.ndarray:
    if name == "f1":
        return generator.integers(0, 4, (n, 2)).astype(float)
    if name in ("wer", "perplexity"):
        return generator.integers(0, 9, (n, 2)).astype(float)
    if name in ("spearman", "pearson"):
        return np.round(generator.normal(size=(n, 2)), 1)
    return generator.integers(0, 2, (n, 1)).astype(float)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 1000))
def test_weighted_is_summarize_of_the_repeated_rows(name: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    table = _rows_for(name, generator, 25)
    counts = generator.multinomial(25, np.full(25, 1 / 25), size=3).astype(float)
    expected = [metric(name).summarize(np.repeat(table, c.astype(int), axis=0)) for c in counts]
    np.testing.assert_allclose(metric(name).weighted(table, counts), expected, atol=1e-9)


def test_two_views_are_compared_by_their_cosine() -> None:
    generator = np.random.default_rng(2)
    vectors, labels = generator.normal(size=(40, 5)), generator.normal(size=20)
    a, b = vectors[0::2], vectors[1::2]
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert value("spearman", vectors, labels, views=2) == pytest.approx(scipy.stats.spearmanr(cosines, labels)[0])
    assert value("pearson", vectors, labels, views=2) == pytest.approx(scipy.stats.pearsonr(cosines, labels)[0])


def test_a_constant_output_correlates_with_nothing() -> None:
    assert value("spearman", np.full((9, 1), 0.1), np.arange(9)) == 0
    assert value("pearson", np.full((9, 1), 0.1), np.arange(9)) == 0


def test_the_cosine_of_single_numbers_is_refused() -> None:
    with pytest.raises(OptimizerError, match="no more than their signs"):
        rows("cosine", [0.3, -2.0])
    assert rows("cosine", [[0.3], [-2.0]], views=2).shape == (1, 2)


def test_cosine_and_agreement_compare_with_the_baseline() -> None:
    before = rows("cosine", [[1.0, 0], [1, 0], [0, 0], [0, 0]])
    after = rows("cosine", [[2.0, 0], [0, 1], [0, 0], [1, 0]])
    np.testing.assert_allclose(metric("cosine").compare(after, before)[:, 0], [1, 0, 1, 0])
    first, second = np.eye(3)[[0, 1, 2, 2]], np.eye(3)[[0, 1, 1, 2]]
    same = metric("agreement").compare(rows("agreement", first), rows("agreement", second))
    assert same[:, 0].tolist() == [1, 1, 0, 1] and metric("agreement").summarize(same) == 75
    pairs = metric("agreement").compare(rows("agreement", first, views=2), rows("agreement", second, views=2))
    assert pairs[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "output", "labels", "options", "message"),
    [
        ("top1", np.zeros((3, 4)), None, {}, "has no label"),
        ("top1", np.zeros((3, 4)), [0, 4, 1], {}, r"label 4 is out of range: the model has 4 classes"),
        ("top1", np.zeros((3, 4)), [0, 1.5, 1], {}, "no class indices"),
        ("top1", np.zeros((3, 1)), [0, 0, 0], {}, r"not \(samples, classes\)"),
        ("top1", np.zeros((3, 4, 5)), [0, 0, 0], {}, r"not \(samples, classes\)"),
        ("top1", np.zeros((3, 4)), [0, 0, 0], {"output": "thrid"}, r"unknown output 'thrid'.*first, second"),
        ("top5", np.zeros((3, 5)), [0, 0, 0], {}, "always right"),
        ("f1", np.zeros((3, 4)), None, {}, "has no label"),
        ("spearman", np.zeros((3, 4)), [0, 0, 0], {}, "one number per example"),
        ("pearson", np.zeros((3, 1)), None, {}, "has no label"),
        ("agreement", np.zeros((3, 1)), None, {}, r"not \(samples, classes\)"),
    ],
)
def test_what_a_metric_cannot_read(name: str, output: Any, labels: Any, options: Any, message: str) -> None:
    with pytest.raises(OptimizerError, match=message) as caught:
        rows(name, output, labels, **options)
    assert caught.value.hint


def test_an_output_that_does_not_count_samples_is_refused() -> None:
    plugin = metric("top1")
    batch = Batch({}, np.zeros(3), np.arange(3))
    with pytest.raises(OptimizerError, match=r"shape \[2, 4\], not one row for each of 3 samples"):
        plugin.examples({"o": np.zeros((2, 4))}, batch, plugin.Options())


CODE = """
import numpy as np
def error(outputs, labels): return np.abs(outputs["first"][:, 0] - labels)
def right(outputs, labels): return outputs["first"].argmax(1) == labels
def views(outputs, labels): return [o.shape[0] for o in outputs["first"]]
def short(outputs, labels): return [1.0]
def words(outputs, labels): return ["a"] * len(labels)
def nan(outputs, labels): return [float("nan")] * len(labels)
def fails(outputs, labels): return outputs["thrid"]
"""


def test_user_metrics(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(CODE)

    def entry(name: str) -> str:
        return f"{tmp_path}/m.py:{name}"

    output = np.array([[1.0, 0], [2, 5], [3, 0], [3, 0]])
    assert value("python", output, [0, 1, 0, 1], entry=entry("error")) == pytest.approx(1.75)
    assert value("python", output, [0, 1, 0, 1], entry=entry("right"), unit="%") == 75
    assert value("python", output, [0, 1], views=2, entry=entry("views")) == 2
    for name, message in {
        "short": r"returned shape \[1\] for 4 examples",
        "words": "did not return numbers",
        "nan": "returned NaN",
        "fails": "KeyError: 'thrid'",
        "lost": "no callable 'lost'",
    }.items():
        with pytest.raises(OptimizerError, match=message):
            value("python", output, [0, 1, 0, 1], entry=entry(name))
