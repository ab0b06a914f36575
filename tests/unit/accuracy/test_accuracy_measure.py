"""From a session and a data set to rows, and from rows to measurements with honest intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer import registry, schema
from optimizer.errors import OptimizerError
from optimizer.measure import accuracy, statistics
from optimizer.protocols import Batch
from optimizer.values import Measurement, Signature, TensorSpec

N = 40
X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
LABELS = X.argmax(axis=1)


@dataclass(frozen=True)
class Data:
    x: np.ndarray
    labels: np.ndarray | None = None
    views: int = 1
    name: str = "test"
    digest: str = ""

    def __len__(self) -> int:
        return len(self.x) // self.views

    def batches(self, size: int, limit: int | None = None) -> Iterator[Batch]:
        for start in range(0, len(self), size):
            rows = np.arange(start, min(start + size, len(self)))
            samples = self.x[rows[0] * self.views : (rows[-1] + 1) * self.views]
            yield Batch({"x": samples}, None if self.labels is None else self.labels[rows], rows, self.views)


@dataclass
class Model:
    batch: int | str = "batch"
    noise: np.ndarray | None = None
    precision: str = "f32"
    sizes: list[int] = field(default_factory=list)

    @property
    def signature(self) -> Signature:
        return Signature((TensorSpec("x", "float32", (self.batch, 4)),), (TensorSpec("y", "float32", (self.batch, 4)),))

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = feeds["x"]
        self.sizes.append(len(x))
        return {"y": x if self.noise is None else x + self.noise[: len(x)]}


def metrics(*names: str, **options: Any) -> dict[str, tuple[Any, Any]]:
    plugins = {name: registry.load("metrics", name) for name in names}
    return {name: (p, schema.parse(p.Options, options, name)) for name, p in plugins.items()}


def evaluated(model: Any, data: Data, wanted: Any, batch: int = 16) -> dict[str, np.ndarray]:
    return accuracy.evaluate(model, data, wanted, batch, lambda done, total: None)


def taken(rows: Any, wanted: Any, baseline: Any = None) -> dict[tuple[str, str], Measurement]:
    found = accuracy.measurements("int8@onnxruntime", rows, wanted, baseline, "machine", 0, {"batch": 16})
    return {(m.metric, m.relation): m for m in found}


def test_one_pass_keeps_rows_in_order_and_reports_progress() -> None:
    seen: list[tuple[int, int]] = []
    rows = accuracy.evaluate(
        Model(), Data(X, LABELS), metrics("top1", "agreement"), 16, lambda d, t: seen.append((d, t))
    )
    assert seen == [(16, N), (32, N), (40, N)]
    np.testing.assert_array_equal(rows["agreement"][:, 0], LABELS)
    assert rows["top1"].shape == (N, 1) and rows["top1"].all()


@pytest.mark.parametrize("fixed", [1, 3, 16, 64])
def test_a_fixed_batch_size_is_served_and_changes_nothing(fixed: int) -> None:
    model = Model(batch=fixed)
    rows = evaluated(model, Data(X, LABELS), metrics("top1", "cosine"))
    assert set(model.sizes) == {fixed}
    np.testing.assert_array_equal(rows["cosine"], X)


def test_nan_outputs_name_the_first_example() -> None:
    spoilt = X.copy()
    spoilt[21, 2] = np.nan
    with pytest.raises(OptimizerError, match="the output 'y' is NaN, first for example 21 of data 'test'"):
        evaluated(Model(), Data(spoilt, LABELS), metrics("top1"))
    with pytest.raises(OptimizerError, match="first for example 10 of"):
        evaluated(Model(), Data(spoilt, LABELS[:20], views=2), metrics("agreement"))


def test_faults_name_metric_and_data() -> None:
    with pytest.raises(OptimizerError, match="metric 'top1' on data 'test': the evaluation data has no label"):
        evaluated(Model(), Data(X), metrics("top1"))
    with pytest.raises(OptimizerError, match="label 9 is out of range: the model has 4 classes"):
        evaluated(Model(), Data(X, np.full(N, 9)), metrics("top1"))
    with pytest.raises(OptimizerError, match=r"has 1 example\(s\)"):
        evaluated(Model(), Data(X[:1], LABELS[:1]), metrics("top1"))


def test_outputs_whose_size_depends_on_the_batch_cannot_be_compared() -> None:
    class Ragged(Model):
        def __call__(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"y": np.zeros((len(feeds["x"]), len(feeds["x"]), 2))}

    with pytest.raises(OptimizerError, match="metric 'cosine': the output has 16 to 32 numbers per example"):
        evaluated(Ragged(), Data(X), metrics("cosine"))


def test_a_share_has_a_wilson_interval() -> None:
    rows = {"top1": np.array([[1.0]] * 90 + [[0.0]] * 10)}
    m = taken(rows, metrics("top1"))["top1", "absolute"]
    low, high = statistics.wilson(90, 100)
    assert (m.value, m.low, m.high, m.n, m.unit, m.better) == (90, 100 * low, 100 * high, 100, "%", "higher")
    assert m.machine == "machine" and m.protocol["batch"] == 16 and "Wilson" in m.protocol["interval"]


def test_the_drop_is_paired_and_counts_both_directions() -> None:
    before = {"top1": np.array([[1.0]] * 90 + [[0.0]] * 10)}
    after = {"top1": np.array([[0.0]] * 3 + [[1.0]] * 88 + [[0.0]] * 9)}
    m = taken(after, metrics("top1"), ("fp32@onnxruntime", before))["top1", "drop"]
    assert m.value == pytest.approx(2) and m.unit == "pp" and m.better == "lower" and m.against == "fp32@onnxruntime"
    assert (m.protocol["lost"], m.protocol["gained"]) == (3, 1) and m.protocol["mcnemar_p"] == pytest.approx(0.625)
    low, high = statistics.tango(3, 1, 100)
    assert (m.low, m.high) == pytest.approx((100 * low, 100 * high))


@pytest.mark.parametrize("name", ["top1", "f1", "spearman", "pearson"])
def test_identical_results_give_zero_but_not_certainty(name: str) -> None:
    model = {
        name: evaluated(Model(), Data(X[:, :1] if "r" in name and name != "f1" else X, LABELS), metrics(name))[name]
    }
    m = taken(model, metrics(name), ("fp32", model))[name, "drop"]
    assert m.value == 0 and m.low is not None and m.high is not None and m.low < 0 < m.high
    assert m.high == pytest.approx(-m.low)


def test_a_perfect_score_is_not_certain_either() -> None:
    rows = {"cosine": np.ones((100, 4)), "f1": np.tile([[1.0, 1.0]], (100, 1))}
    found = taken(rows, metrics("cosine", "f1"), ("fp32", rows))
    assert found["cosine", "absolute"].low == 1  # numbers without any spread: the spread says how sure they are
    assert found["f1", "absolute"].low == pytest.approx(100 * (1 - statistics.unseen(100)))
    assert found["cosine", "absolute"].high == 1 and found["cosine", "absolute"].against == "fp32"


def test_no_error_in_some_examples_is_no_proof_that_there_is_none() -> None:
    rows = {"wer": np.tile([[0.0, 5.0]], (400, 1))}  # errors and words
    found = taken(rows, {"wer": (registry.load("metrics", "wer"), None)}, ("fp32", rows))
    most = 100 * statistics.unseen(400)
    assert (found["wer", "absolute"].low, found["wer", "absolute"].high) == (0, pytest.approx(most))
    assert (found["wer", "drop"].low, found["wer", "drop"].high) == (pytest.approx(-most), pytest.approx(most))


def test_metrics_against_the_baseline_need_one_and_have_no_drop() -> None:
    rows = {"agreement": np.zeros((10, 1)), "top1": np.ones((10, 1))}
    wanted = metrics("agreement", "top1")
    assert set(taken(rows, wanted)) == {("top1", "absolute")}
    both = taken(rows, wanted, ("fp32", rows))
    assert set(both) == {("top1", "absolute"), ("top1", "drop"), ("agreement", "absolute")}
    assert both["agreement", "absolute"].value == 100 and both["agreement", "absolute"].low < 80  # type: ignore[operator]


def test_where_lower_is_better_a_drop_is_still_a_loss(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def error(outputs, labels): return abs(outputs['y'][:, 0])\n")
    wanted = metrics("python", entry=f"{tmp_path}/m.py:error", unit="m", better="lower")
    generator = np.random.default_rng(0)
    before = {"python": generator.normal(1, 0.1, (50, 1))}
    after = {"python": before["python"] + generator.normal(0.2, 0.01, (50, 1))}
    found = taken(after, wanted, ("fp32", before))
    drop, absolute = found["python", "drop"], found["python", "absolute"]
    assert drop.value == pytest.approx(0.2, abs=0.01) and drop.low < drop.value < drop.high  # type: ignore[operator]
    assert (drop.unit, absolute.unit, absolute.better) == ("m", "m", "lower")
    assert absolute.low < absolute.value < absolute.high  # type: ignore[operator]


def test_the_same_seed_gives_the_same_measurements() -> None:
    rows = {"pearson": np.random.default_rng(0).normal(size=(30, 2))}
    assert taken(rows, metrics("pearson")) == taken(rows, metrics("pearson"))
