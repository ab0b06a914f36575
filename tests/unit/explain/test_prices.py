"""What layers cost in float: measured by a profiler, by what is stored, or counted."""

from __future__ import annotations

import pytest

from optimizer.explain import prices
from optimizer.explain.kernels import Kernel, Profiled
from optimizer.explain.variants import Layer

LAYERS = [Layer("a", "Conv", 300, 10), Layer("b", "Conv", 100, 30), Layer("sum", "Add")]


def profiled(total: float, **times: float) -> Profiled:
    """Kernels by name; `a_b` is one kernel that serves both."""
    kernels = tuple(Kernel(n, "Conv", "float", "", [ms], covers=tuple(n.split("_"))) for n, ms in times.items())
    return Profiled(kernels, total, total, 9)


def test_a_layer_costs_the_milliseconds_that_it_takes_longer_in_float() -> None:
    found = prices.measured(LAYERS, profiled(2.0, a=0.5, b=0.5, sum=0.1), profiled(4.0, a=1.5, b=0.7, sum=0.05))
    assert found.shares == {"a": 0.5, "b": pytest.approx(0.1), "sum": 0.0}, "what is slower in 8 bits costs nothing"
    assert found.share(["a", "b"]) == pytest.approx(0.6)
    assert found.told(["a"]) == "1 of 2 ms"


def test_a_kernel_of_several_layers_is_shared_out_by_multiplications() -> None:
    found = prices.milliseconds(profiled(1.0, a_b=0.8, sum=0.2), LAYERS)
    assert found == {"a": pytest.approx(0.6), "b": pytest.approx(0.2), "sum": 0.2}
    even = prices.milliseconds(profiled(1.0, x_y=0.8, z=0.2), [Layer("x", "Add"), Layer("y", "Mul")])
    assert even == {"x": 0.4, "y": 0.4}, "a kernel that serves no layer is nobody's"


def test_where_nothing_is_faster_in_8_bits_prices_are_counted() -> None:
    slower = prices.measured(LAYERS, profiled(2.0, a=0.5), profiled(1.0, a=0.4))
    assert slower == prices.counted(LAYERS)
    assert slower.told(["a"]) == "50 % of what is multiplied and stored in 8 bits"
    assert slower.shares == {"a": 0.5, "b": 0.5, "sum": 0.0}
    assert prices.measured(LAYERS, profiled(2.0), profiled(1.0)) == slower


def test_by_size_a_layer_costs_what_its_weights_take_more() -> None:
    found = prices.stored(LAYERS)
    assert found.shares == {"a": 0.25, "b": 0.75, "sum": 0.0}
    assert found.told(["b"]) == "9e-05 of 0.00012 MB that all would take more"
    assert prices.stored([Layer("x", "Add")]).share(["x"]) == 0
