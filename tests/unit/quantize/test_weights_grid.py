"""Weights on a grid of integers: the bounds that every algorithm of quantize.weights keeps, on any weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimizer.passes.quantize_weights import awq, gptq, grid, hqq, packing
from optimizer.passes.quantize_weights.grid import Grid

GRIDS = st.builds(Grid, st.sampled_from([4, 8]), st.sampled_from([16, 32]), st.booleans())
ANY = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 70)),
    elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False),
)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 70))
SLACK = 1 + 1e-5  # of float32: scales are rounded, too


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def steps_of(found: grid.Quantized) -> np.ndarray:
    """The step of each weight, in the shape of the weights."""
    sizes = np.abs(np.repeat(found.steps.scales, found.grid.group, axis=1))
    return sizes[:, : found.width]


@given(ANY, GRIDS)
def test_round_to_nearest_moves_no_weight_by_more_than_half_a_step(weights: np.ndarray, chosen: Grid) -> None:
    found = grid.nearest(weights, chosen)
    errors = np.abs(found.dequantized().astype(np.float64) - weights)
    assert (errors <= steps_of(found) * 0.5 * SLACK).all()
    assert found.codes.min() >= chosen.low
    assert found.codes.max() <= chosen.high


@given(ANY, GRIDS)
def test_symmetric_grids_have_zero_points_of_zero_and_zero_stays_zero(weights: np.ndarray, chosen: Grid) -> None:
    for found in (grid.nearest(weights, chosen), hqq.quantized(weights, chosen)):
        if chosen.symmetric:
            assert not found.steps.zeros.any()
    weights[:, ::2] = 0
    assert not grid.nearest(weights, chosen).dequantized()[:, ::2].any()


@given(st.integers(0, 10_000), SHAPES, GRIDS)
def test_quantizing_again_changes_nothing(seed: int, shape: tuple[int, int], chosen: Grid) -> None:
    once = grid.nearest(normal(seed, *shape), chosen)
    twice = grid.nearest(once.dequantized(), chosen)
    np.testing.assert_allclose(twice.dequantized(), once.dequantized(), rtol=1e-5, atol=0)


@given(ANY, GRIDS)
def test_the_same_weights_give_the_same_codes(weights: np.ndarray, chosen: Grid) -> None:
    for quantized in (grid.nearest, hqq.quantized):
        one, two = quantized(weights, chosen), quantized(weights.copy(), chosen)
        assert one.codes.tobytes() == two.codes.tobytes()
        assert one.steps.scales.tobytes() == two.steps.scales.tobytes()


@given(
    arrays.arrays(np.int8, st.tuples(st.integers(1, 3), st.integers(1, 9)), elements=st.integers(-8, 7)),
    st.sampled_from([4, 8]),
)
def test_packing_round_trips(codes: np.ndarray, bits: int) -> None:
    found = packing.packed(codes, bits)
    assert found.dtype == np.uint8
    assert found.shape[-1] == -(-codes.shape[-1] * bits // 8)
    np.testing.assert_array_equal(packing.unpacked(found, bits, codes.shape[-1]), codes)


def test_the_first_of_two_codes_lies_in_the_lower_half_of_the_byte() -> None:
    assert packing.packed(np.array([-8, 7, 1], np.int8), 4).tolist() == [0xF0, 0x09]


@given(st.integers(0, 10_000), SHAPES, GRIDS)
def test_hqq_has_no_larger_error_than_rounding_in_its_own_norm(seed: int, shape: tuple[int, int], chosen: Grid) -> None:
    weights = normal(seed, *shape)
    plain, fitted = grid.nearest(weights, chosen), hqq.quantized(weights, chosen)
    norms = [(np.abs(q.dequantized() - weights) ** hqq.POWER).sum() for q in (fitted, plain)]
    assert norms[0] <= norms[1] * SLACK


@pytest.mark.parametrize("symmetric", [False, True])
def test_hqq_spends_its_steps_on_the_many_and_not_on_the_outlier(symmetric: bool) -> None:
    weights = normal(0, 64, 64)
    weights[:, ::32] *= 12
    chosen = Grid(4, 32, symmetric)
    ordinary = np.delete(np.arange(64), [0, 32])
    errors = [
        np.abs((quantized(weights, chosen).dequantized() - weights)[:, ordinary]).mean()
        for quantized in (hqq.quantized, grid.nearest)
    ]
    assert errors[0] < 0.99 * errors[1]


def correlated(seed: int, rows: int, width: int) -> np.ndarray:
    """Inputs that share a few directions, as activations of a network do."""
    return normal(seed, rows, width // 8) @ normal(seed + 1, width // 8, width) + 0.1 * normal(seed + 2, rows, width)


def loss(weights: np.ndarray, used: np.ndarray, inputs: np.ndarray) -> float:
    return float(((inputs @ (weights - used).T) ** 2).mean())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("width", [64, 200])  # the last block of GPTQ, and the last group, are not full
def test_gptq_beats_rounding_on_inputs_that_correlate(width: int, symmetric: bool) -> None:
    weights, seen, unseen = normal(3, 48, width), correlated(5, 2048, width), correlated(5, 4096, width)[2048:]
    chosen = Grid(4, 32, symmetric)
    found = gptq.quantized(weights, seen.T @ seen / len(seen), chosen)
    plain = grid.nearest(weights, chosen)
    for inputs in (seen, unseen):
        assert loss(weights, found.dequantized(), inputs) < 0.5 * loss(weights, plain.dequantized(), inputs)


def test_gptq_rounds_inputs_that_were_never_seen_to_nearest() -> None:
    weights, inputs = normal(1, 16, 64), correlated(2, 512, 64)
    inputs[:, 10:20] = 0
    chosen = Grid(4, 32, symmetric=False)
    found = gptq.quantized(weights, inputs.T @ inputs / len(inputs), chosen)
    np.testing.assert_array_equal(found.dequantized()[:, 10:20], grid.nearest(weights, chosen).dequantized()[:, 10:20])
    none = gptq.quantized(weights, np.zeros((64, 64)), chosen)
    np.testing.assert_array_equal(none.codes, grid.nearest(weights, chosen).codes)


def test_gptq_with_fewer_rows_than_columns_is_still_no_worse() -> None:
    weights, inputs = normal(1, 16, 128), normal(2, 8, 128)
    chosen = Grid(4, 32, symmetric=False)
    found = gptq.quantized(weights, inputs.T @ inputs / len(inputs), chosen)
    plain = grid.nearest(weights, chosen)
    assert loss(weights, found.dequantized(), inputs) <= loss(weights, plain.dequantized(), inputs)


def test_awq_beats_rounding_where_a_few_inputs_are_large() -> None:
    layers = [normal(3, 48, 128), normal(4, 32, 128)]
    inputs = normal(5, 2048, 128)
    inputs[:, [3, 40, 77]] *= 30
    chosen = Grid(4, 32, symmetric=False)
    found = awq.quantized(layers, inputs.T @ inputs / len(inputs), chosen)
    assert found.factors is not None
    losses = [loss(w, q.dequantized() / found.factors, inputs) for w, q in zip(layers, found.layers, strict=True)]
    plain = [loss(w, grid.nearest(w, chosen).dequantized(), inputs) for w in layers]
    assert sum(losses) < 0.5 * sum(plain)
    assert found.loss == pytest.approx(48 * losses[0] + 32 * losses[1], rel=1e-3)


def test_awq_leaves_inputs_alone_that_were_always_zero() -> None:
    found = awq.quantized([normal(3, 8, 32)], np.zeros((32, 32)), Grid(4, 32, symmetric=False))
    assert found.factors is None
    inputs = normal(5, 256, 32) * np.array([40.0, *[1.0] * 30, 0.0], np.float32)
    seen = awq.quantized([normal(3, 8, 32)], inputs.T @ inputs, Grid(4, 32, symmetric=False))
    assert seen.factors is not None
    assert np.isfinite(seen.factors).all()
    assert (seen.factors > 0).all()
    assert seen.factors[-1] == 1


def test_groups_of_zeros_and_of_the_smallest_floats_stay_finite() -> None:
    weights = np.zeros((2, 64), np.float32)
    weights[1, 5] = np.finfo(np.float32).tiny
    for symmetric in (False, True):
        found = grid.nearest(weights, Grid(4, 32, symmetric))
        assert np.isfinite(found.steps.scales).all()
        assert found.steps.scales.all()
        assert not found.dequantized()[0].any()
