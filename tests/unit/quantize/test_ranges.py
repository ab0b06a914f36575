"""Calibration: ranges equal what numpy sees, data is streamed, clipping follows its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_lab import Data, artifact, convnet, images, outputs

from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats.calibration import TOGETHER, Calibration
from optimizer.passes.quantize_static import ranges, thresholds
from optimizer.values import Signature, TensorSpec


def test_extremes_are_those_of_every_sample(tmp_path) -> None:
    source = artifact(convnet(), tmp_path / "m")
    data, steps = images(20), []
    model = onnx_format.load(source.path)
    before = model.SerializeToString()
    found = ranges.observe(
        model,
        ["image", "logits"],
        Calibration(data, source.signature, 13),
        None,
        ranges.Extremes,
        lambda *s: steps.append(s),
    )
    seen = data.feeds["image"][:13]
    logits = outputs(source, {"image": seen})["logits"]
    assert found["image"].low == seen.min() and found["image"].high == seen.max()
    assert found["logits"].low == pytest.approx(logits.min(), rel=1e-5)
    assert found["logits"].high == pytest.approx(logits.max(), rel=1e-5)
    assert data.given == [8, 5] and steps[-1] == (13, 13)
    assert model.SerializeToString() == before


def test_histograms_read_one_sample_at_a_time_and_clip_below_the_extremes(tmp_path) -> None:
    source = artifact(convnet(), tmp_path / "m")
    data = images(24)
    data.feeds["image"][7, 0, 0, 0] = 1000.0  # one outlier stretches the range by a factor of 200
    model = onnx_format.load(source.path)
    calibration = Calibration(data, source.signature, 300)
    found = ranges.observe(
        model,
        ["image", "r1"],
        calibration,
        lambda c, t: thresholds.percentile(c, t, 99.9),
        ranges.Extremes,
        lambda *s: None,
    )
    assert max(data.given) == TOGETHER and data.given[-24:] == [1] * 24
    assert found["image"].high < 10 and found["image"].low >= data.feeds["image"].min()
    assert found["r1"].low == 0  # a range never grows


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(60, 100))
def test_percentile_keeps_its_share(seed: int, share: float) -> None:
    values = np.random.default_rng(seed).standard_normal(5000).astype("float32")
    top = float(np.abs(values).max())
    low, limit = thresholds.percentile(thresholds.bins_of(values, top), top, share)
    assert low == -limit
    assert np.mean(np.abs(values) <= limit) * 100 >= share - 0.2
    assert limit <= np.percentile(np.abs(values), min(share + 0.1, 100)) + 2 * top / thresholds.BINS


def test_entropy_cuts_a_thin_tail_and_keeps_a_uniform_range() -> None:
    random = np.random.default_rng(0)
    body = random.standard_normal(200_000).astype("float32")
    tailed = np.append(body, np.float32(100.0))
    assert thresholds.entropy(thresholds.bins_of(tailed, 100.0), 100.0)[1] < 20
    uniform = random.uniform(-1, 1, 200_000).astype("float32")
    assert thresholds.entropy(thresholds.bins_of(uniform, 1.0), 1.0)[1] > 0.95


def test_every_value_is_counted_once() -> None:
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0], dtype="float32")
    counts = thresholds.bins_of(values, 2.0)
    assert counts.sum() == 5 and counts[-1] == 1 and counts[0] == 1 and counts[thresholds.BINS] == 1
    assert thresholds.magnitudes(counts)[-1] == 2 and thresholds.magnitudes(counts)[0] == 1


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    """What 8 bits over [low, high] cost, by quantizing."""
    step = (high - low) / 255
    return float(np.mean((np.clip(np.rint(values / step), round(low / step), round(high / step)) * step - values) ** 2))


@pytest.mark.parametrize("shape", ["tail", "skewed", "relu", "uniform"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_squared_error_is_as_small_as_a_search_on_the_values_finds_it(shape: str, symmetric: bool) -> None:
    random = np.random.default_rng(1)
    values = {
        "tail": np.append(random.standard_normal(50_000), 60.0),
        "skewed": random.exponential(1.0, 50_000) - 0.5,
        "relu": np.maximum(random.standard_normal(50_000), 0),
        "uniform": random.uniform(-1, 1, 50_000),
    }[shape]
    top = float(np.abs(values).max())
    low, high = thresholds.mse(thresholds.bins_of(values.astype("float32"), top), top, symmetric)
    low = low if symmetric else max(low, values.min())  # as `observe` has it: a range never grows
    ends = np.linspace(0.05, 1, 60)
    pairs = [
        (-top * b, top * a) for a in ends for b in ([a] if symmetric else [*ends[::6], max(-values.min() / top, 0)])
    ]
    best = min(squared_error(values, *pair) for pair in pairs)
    assert squared_error(values, low, high) < 1.1 * best
    if symmetric:
        assert low == -high


def test_a_moving_average_forgets_slowly_and_starts_without_favour() -> None:
    average = ranges.MovingAverage()
    for value in (1.0, 3.0):
        average.add(np.array([-value]), np.array([value]))
    lows, highs = average.found()
    assert highs[0] == pytest.approx((0.9 * 0.1 * 1 + 0.1 * 3) / 0.19) and lows[0] == -highs[0]
    average.add(np.array([np.nan]), np.array([0.0]))
    assert np.isnan(average.found()[0][0])


def test_a_fixed_batch_gets_exactly_its_rows_also_with_views() -> None:
    fixed = Signature((TensorSpec("image", "float32", (4, 3, 8, 8)),), ())
    assert [len(f["image"]) for f in Calibration(images(10), fixed, 300).feeds()] == [4, 4]
    pairs = images(20, views=2)
    assert [len(f["image"]) for f in Calibration(pairs, fixed, 9).feeds()] == [4, 4, 4, 4]
    with pytest.raises(OptimizerError, match="gives no sample"):
        list(Calibration(images(3), fixed, 300).feeds())


def test_samples_of_different_shapes_stay_alone() -> None:
    ragged = Signature((TensorSpec("tokens", "int64", ("n", "length")),), ())
    data = Data({"tokens": np.zeros((5, 3), dtype="int64")})
    assert [len(f["tokens"]) for f in Calibration(data, ragged, 300).feeds(together=True)] == [1] * 5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float(np.finfo(np.float32).max)])
def test_a_range_that_no_scale_can_hold_is_not_finite(bad: float) -> None:
    assert not ranges.Range(0.0, bad).finite and not ranges.Range(-bad, 0.0).finite
    assert ranges.Range(-1.0, 2.0).finite and ranges.Range(-3.0, 2.0).top == 3
