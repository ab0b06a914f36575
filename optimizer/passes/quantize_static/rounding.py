"""AdaRound: weights are rounded up or down so that the layer's output moves least, not each to its nearest integer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, arXiv 2004.10568. Equations
20 to 24: a variable per weight, driven to 0 or 1 by a regularizer, minimizes the squared error of the layer's output.
That error is a quadratic form in the second moments of the layer's inputs (equation 13), so that these replace the
samples: the gradient is exact, no random choice of batches is left, and two hundred steps do where the paper takes ten
thousand. Two things are simpler than there: the variable itself is clipped to [0, 1] in place of a stretched sigmoid of
it, and the regularizer 1 - |2 h - 1|^2 gains weight instead of losing its exponent. On random layers with correlated
inputs the result is as good or better, and neither exponentials nor powers are computed.
A channel that ends up worse than rounded to nearest stays as it was.

The result is float weights that lie on the grid of `grid.of_weight`, whose scale is a channel's max|w| over its top:
the largest magnitude stays what it is, and rounding to nearest finds the chosen integers again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.formats.calibration import Calibration
from optimizer.formats.layers import Graph, Layer, grouped, ungrouped
from optimizer.passes.quantize_static.grid import of_weight, top
from optimizer.passes.quantize_static.moments import second_moments, unfoldable

if TYPE_CHECKING:
    import onnx

STEPS = 200
WARM = 0.2  # share of the steps before the regularizer sets in (section 3.3 of the paper: it only bothers at first)
WEIGHT = 8.0  # of the regularizer at the end, beside 1 for what a weight adds to its channel's error on average
RATE, MOMENTUM, SCALING = 0.05, 0.9, 0.99  # Adam
DECIDED = 0.01  # as near to 0 or 1 as counts as decided


@dataclass(frozen=True)
class Grid:
    """The integers that a weight may become, and what they are worth."""

    scale: np.ndarray  # float32, one per output channel, shaped to multiply (groups, outer, k)
    top: int  # the largest of them

    @classmethod
    def of(cls, weight: np.ndarray, per_channel: bool, reduced: bool = False) -> Grid:
        """The grid that the writer will find for the weight (groups, outer, k)."""
        rows = weight.reshape(-1, weight.shape[2])
        found = of_weight(rows, 0 if per_channel else None, reduced).scale
        return cls(found.reshape(*weight.shape[:2], 1) if per_channel else found.reshape(1, 1, 1), top(reduced))

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.clip(np.rint(weight / self.scale), -self.top, self.top)
        return found

    def values(self, integers: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weights on the grid; at its ends exactly the largest magnitude of the channel, which makes the grid again."""
        tops = np.broadcast_to(self._tops(weight), weight.shape)
        ends = np.abs(integers) == self.top
        found: np.ndarray = np.where(ends, np.sign(integers) * tops, integers * self.scale).astype(np.float32)
        return found

    def _tops(self, weight: np.ndarray) -> np.ndarray:
        axes = tuple(axis for axis in range(3) if self.scale.shape[axis] == 1)
        found: np.ndarray = np.abs(weight).max(axis=axes, keepdims=True)
        return found


def adaround(
    model: onnx.ModelProto,
    takes: Callable[[onnx.NodeProto], bool],
    data: Calibration,
    per_channel: bool,
    seed: int,
    progress: Callable[[int, int], None],
    reduced: bool = False,
) -> dict[str, Any]:
    """Put the weights of all layers to be quantized onto their grids, in place: how much of the error is left."""
    graph = Graph(model)
    wanted = [layer for layer in graph.layers.values() if takes(layer.node)]
    able = [layer for layer in wanted if unfoldable(layer)]
    chosen: dict[str, np.ndarray] = {}
    left: dict[str, float] = {}
    for layer, moments in second_moments(model, able, data, seed, progress):
        chosen[layer.weight], left[layer.name] = _rounded(graph, layer, moments, per_channel, reduced)
    for name, weight in chosen.items():
        graph.put(name, weight)
    nearest = [layer.name for layer in wanted if layer.name not in left]
    return {"layers": len(left), "error": round(float(np.mean(list(left.values()) or [1.0])), 4), "nearest": nearest}


def _rounded(
    graph: Graph, layer: Layer, moments: np.ndarray, per_channel: bool, reduced: bool
) -> tuple[np.ndarray, float]:
    """The weight on its grid, and its error as a share of that of rounding to nearest."""
    original = graph.array(layer.weight)
    parts = grouped(layer, original)
    weight = parts.reshape(*parts.shape[:2], -1)
    grid = Grid.of(weight, per_channel, reduced)
    nearest = grid.nearest(weight)
    integers = learn(weight, moments, grid)
    before, after = (errors(i * grid.scale - weight, moments) for i in (nearest, integers))
    better = (after < before)[..., None]
    integers = np.where(better, integers, nearest)
    share = float(np.minimum(before, after).sum() / before.sum()) if before.sum() > 0 else 1.0
    return ungrouped(layer, grid.values(integers, weight), original.shape), share


def errors(moved: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """(groups, outer): the mean squared error of each output channel when its weights move by `moved`."""
    found: np.ndarray = ((moved @ moments) * moved).sum(axis=2)
    return found


def learn(weight: np.ndarray, moments: np.ndarray, grid: Grid) -> np.ndarray:
    """The integers (groups, outer, k) that rounding up or down gives with the least error of the output."""
    scaled = weight / grid.scale
    floor = np.floor(scaled)
    share = scaled - floor
    unit = errors((grid.nearest(weight) - scaled) * grid.scale, moments)[..., None] / weight.shape[2]
    pull = (2 * grid.scale / np.where(unit > 0, unit, np.inf)).astype(np.float32)  # a channel's error counts as k
    up, first, second = share.copy(), np.zeros_like(share), np.zeros_like(share)
    for step in range(STEPS):
        slope = pull * (((up - share) * grid.scale) @ moments)
        late = max(0.0, (step / STEPS - WARM) / (1 - WARM))
        if late:
            slope -= np.float32(WEIGHT * late) * (2 * up - 1)  # of WEIGHT / 4 (1 - (2 h - 1)^2)
        first += (1 - MOMENTUM) * (slope - first)
        second += (1 - SCALING) * (slope * slope - second)
        rate = RATE * np.sqrt(1 - SCALING ** (step + 1)) / (1 - MOMENTUM ** (step + 1))
        up = np.clip(up - np.float32(rate) * first / (np.sqrt(second) + np.float32(1e-8)), 0, 1)
        if late and step % 10 == 0 and np.abs(up - np.rint(up)).max() < DECIDED:
            break
    found: np.ndarray = np.clip(floor + (up >= 0.5), -grid.top, grid.top)
    return found
