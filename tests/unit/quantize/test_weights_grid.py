"""Weights on a grid of integers: the bounds that every algorithm of quantize.weights keeps, on any weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optimizer.passes.quantize_weights import autoround, awq, gptq, grid, hqq, packing
from optimizer.passes.quantize_weights.grid import Grid

Rounding = Callable[[np.ndarray, np.ndarray, Grid], grid.Quantized]
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


def moments(inputs: np.ndarray) -> np.ndarray:
    return inputs.T.astype(np.float64) @ inputs / len(inputs)


LEARNT = pytest.mark.parametrize("quantized", [gptq.quantized, autoround.quantized], ids=["gptq", "autoround"])


@LEARNT
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("width", [64, 200])  # the last block of GPTQ, and the last group, are not full
def test_what_looks_at_inputs_beats_rounding_where_they_correlate(
    quantized: Rounding, width: int, symmetric: bool
) -> None:
    weights, seen, unseen = normal(3, 48, width), correlated(5, 2048, width), correlated(5, 4096, width)[2048:]
    chosen = Grid(4, 32, symmetric)
    found = quantized(weights, moments(seen), chosen)
    plain = grid.nearest(weights, chosen)
    for inputs in (seen, unseen):
        assert loss(weights, found.dequantized(), inputs) < 0.5 * loss(weights, plain.dequantized(), inputs)


@LEARNT
@given(st.integers(0, 10_000), SHAPES, GRIDS)
@settings(max_examples=20, deadline=None)
def test_no_output_is_worse_than_rounded_to_nearest(
    quantized: Rounding, seed: int, shape: tuple[int, int], chosen: Grid
) -> None:
    weights, hessian = normal(seed, *shape), moments(normal(seed + 1, 2 + seed % 60, shape[1]))
    found, plain = quantized(weights, hessian, chosen), grid.nearest(weights, chosen)
    losses = [gptq.losses(weights - q.dequantized(), hessian) for q in (found, plain)]
    assert (losses[0] <= losses[1] * SLACK).all()
    assert found.codes.min() >= chosen.low and found.codes.max() <= chosen.high
    assert not (chosen.symmetric and found.steps.zeros.any())


@LEARNT
@given(st.integers(0, 10_000), SHAPES, GRIDS)
@settings(max_examples=20, deadline=None)
def test_the_codes_are_those_nearest_to_the_weights_that_they_stand_for(
    quantized: Rounding, seed: int, shape: tuple[int, int], chosen: Grid
) -> None:
    weights, hessian = normal(seed, *shape), moments(normal(seed + 1, 64, shape[1]))
    found, again = quantized(weights, hessian, chosen), quantized(weights.copy(), hessian.copy(), chosen)
    assert (again.codes.tobytes(), again.steps.scales.tobytes()) == (
        found.codes.tobytes(),
        found.steps.scales.tobytes(),
    )
    restored = grid.grouped(found.dequantized(), chosen.group)
    nearest = grid.rounded(restored, found.steps, chosen).reshape(len(weights), -1)[:, : shape[1]]
    np.testing.assert_array_equal(nearest, found.codes.reshape(len(weights), -1)[:, : shape[1]])


@LEARNT
def test_inputs_that_were_never_seen_are_rounded_to_nearest(quantized: Rounding) -> None:
    weights, inputs = normal(1, 16, 64), correlated(2, 512, 64)
    inputs[:, 32:] = 0
    chosen = Grid(4, 32, symmetric=False)
    found = quantized(weights, moments(inputs), chosen)
    np.testing.assert_array_equal(found.dequantized()[:, 32:], grid.nearest(weights, chosen).dequantized()[:, 32:])
    none = quantized(weights, np.zeros((64, 64)), chosen)
    np.testing.assert_array_equal(none.codes, grid.nearest(weights, chosen).codes)


@LEARNT
def test_fewer_rows_than_columns_are_still_no_worse(quantized: Rounding) -> None:
    weights, inputs = normal(1, 16, 128), normal(2, 8, 128)
    chosen = Grid(4, 32, symmetric=False)
    found, plain = quantized(weights, moments(inputs), chosen), grid.nearest(weights, chosen)
    assert loss(weights, found.dequantized(), inputs) <= loss(weights, plain.dequantized(), inputs)


@pytest.mark.parametrize("symmetric", [False, True])
def test_autoround_clips_an_outlier_that_no_input_reaches(symmetric: bool) -> None:
    weights, inputs = normal(0, 32, 64), normal(1, 1024, 64)
    weights[:, 5] *= 8
    inputs[:, 5] *= 0.01
    chosen = Grid(4, 32, symmetric)
    found, plain = autoround.quantized(weights, moments(inputs), chosen), grid.nearest(weights, chosen)
    assert np.abs(found.steps.scales[:, 0]).mean() < 0.8 * np.abs(plain.steps.scales[:, 0]).mean()
    assert loss(weights, found.dequantized(), inputs) < 0.6 * loss(weights, plain.dequantized(), inputs)


def test_autoround_learns_rows_apart_as_it_learns_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, hessian, chosen = normal(3, 24, 64), moments(correlated(5, 512, 64)), Grid(4, 32, False)
    whole = autoround.quantized(weights, hessian, chosen)
    monkeypatch.setattr(autoround, "TOGETHER", 1)
    apart = autoround.quantized(weights, hessian, chosen)
    losses = [gptq.losses(weights - q.dequantized(), hessian).sum() for q in (whole, apart)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # signs of slopes near zero depend on the order of sums


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
