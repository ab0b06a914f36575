"""The small parts: sums, matching, parts of data, chunks, budgets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from explain_lab import Labelled, points
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.commands import options
from optimizer.errors import OptimizerError
from optimizer.explain.matching import Match, Operation, match
from optimizer.explain.subject import Part, one
from optimizer.explain.sums import Sums
from optimizer.explain.taps_onnx import Tap, chunks
from optimizer.values import Signature, TensorSpec


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from(["float32", "float64", "float16"]))
def test_sums_over_pieces_are_those_of_the_whole(seed: int, parts: int, dtype: str) -> None:
    random = np.random.default_rng(seed)
    x = random.standard_normal(200)
    y = (x + 0.01 * random.standard_normal(200)).astype(dtype)
    x = x.astype(dtype)
    sums = Sums()
    for a, b in zip(np.array_split(x, parts), np.array_split(y, parts), strict=True):
        sums.add(a, b)
    wide, other = x.astype(np.float64), y.astype(np.float64)
    assert sums.ratio == pytest.approx(np.sum((wide - other) ** 2) / np.sum(wide**2), rel=1e-4)
    assert sums.cosine == pytest.approx(wide @ other / np.linalg.norm(wide) / np.linalg.norm(other))
    assert (sums.low, sums.high) == (wide.min(), wide.max())


def test_identical_tensors_have_no_ratio_and_broken_ones_an_infinite_one() -> None:
    same, broken = Sums(), Sums()
    same.add(np.ones(4, "float32"), np.ones(4, "float32"))
    assert same.sqnr_db is None and same.ratio == 0 and same.cosine == pytest.approx(1)
    broken.add(np.ones(4, "float32"), np.array([1, np.nan, 1, 1], "float32"))
    assert math.isinf(broken.ratio) and broken.broken == 1 and broken.count == 3


def test_the_lowest_float_of_a_mask_drowns_nothing() -> None:
    lowest = np.finfo(np.float32).min
    sums = Sums()
    sums.add(np.array([1, lowest, 2], "float32"), np.array([1.5, lowest, 2], "float32"))
    sums.add(np.array([-np.inf], "float32"), np.array([-np.inf], "float32"))
    assert sums.noise == pytest.approx(0.25) and sums.broken == 0 and (sums.low, sums.high) == (1, 2)


def test_saturation_counts_both_ends() -> None:
    sums = Sums()
    sums.saturate(np.array([0, 255, 7, 0], "uint8"), (0, 255))
    assert sums.saturated == 0.75
    sums.saturate(np.array([0, 255, 7, 0], "uint8"), (255,))
    assert sums.saturated == 0.5


def test_names_are_trusted_where_types_agree_and_order_decides_the_rest() -> None:
    ours = [
        Operation("a", "Conv", ("x",), 4),
        Operation("new1", "Relu", ("n1",), 4),
        Operation("b", "MatMul", ("y",), 2),
    ]
    theirs = [
        Operation("a", "Conv", ("x",), 4),
        Operation("old1", "Relu", ("o1",), 4),
        Operation("extra", "Softmax", ("s",), 2),
        Operation("b", "Gemm", ("z",), 2),
        Operation("c", "MatMul", ("w",), 2),
    ]
    assert match(ours, theirs) == {
        "a": Match("a", "name"),
        "new1": Match("old1", "position"),
        "b": Match("c", "position"),
    }


def test_a_renamed_node_is_found_by_its_output() -> None:
    assert match([Operation("p", "Add", ("y",))], [Operation("q", "Add", ("y",))]) == {"p": Match("q", "name")}


def test_chunks_stay_below_their_budget() -> None:
    taps = [Tap(str(i), "Add", str(i), str(i), "name", i, ()) for i in range(5)]
    sizes = {"0": 10, "1": 10, "2": 100, "3": 1, "4": 1}
    assert [[t.name for t in part] for part in chunks(taps, sizes, 60)] == [["0", "1"], ["2"], ["3", "4"]]


def test_a_part_of_the_data_is_those_examples_and_no_others() -> None:
    whole = Labelled(points(10), np.arange(10))
    part = Part(whole, 3, 4)
    for _ in range(2):  # the second time from memory
        batches = list(part.batches(2))
        assert np.concatenate([b.indices for b in batches]).tolist() == [3, 4, 5, 6]
        assert np.array_equal(np.concatenate([b.feeds["x"] for b in batches]), whole.x[3:7])
        assert np.concatenate([b.labels for b in batches]).tolist() == [3, 4, 5, 6]  # type: ignore[misc]  # there are labels
    assert len(part) == 4 and len(Part(whole, 8, 9)) == 2 and len(Part(whole, 10, 5)) == 0


def test_the_profile_runs_on_inputs_of_the_asked_sizes() -> None:
    signature = Signature((TensorSpec("x", "float32", ("batch", "length")),), ())
    feeds = one(Labelled(points(4), np.zeros(4)), signature, 3, {"length": 9})
    assert feeds["x"].shape == (3, 9) and np.array_equal(feeds["x"][:, 6:], feeds["x"][:, :3])


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("5m", 300), ("1.5min", 90), ("1h", 3600), ("500ms", 0.5)]
)
def test_budgets(text: str, value: float) -> None:
    assert options.seconds("--budget", text) == value


@pytest.mark.parametrize("text", ["0s", "", "five", "-3s", "3 days"])
def test_no_budget(text: str) -> None:
    with pytest.raises(OptimizerError, match="--budget"):
        options.seconds("--budget", text)
