"""AdaRound: weights are rounded up or down so that the layer's output moves least, not each to its nearest integer.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, arXiv 2004.10568. Equations
20 to 24: a variable per weight, driven to 0 or 1 by a regularizer that sharpens while it runs, minimizes the squared
error of the layer's output. That error is a quadratic form in the second moments of the layer's inputs (equation 13),
so that these replace the samples: the gradient is exact, no random choice of batches is left, and a few hundred
steps do where the paper takes ten thousand. A channel that ends up worse than rounded to nearest stays as it was.

The result is float weights that lie on the grid of the quantizer, which takes max|w| / 127 as the scale of a channel:
the largest magnitude stays what it is, and rounding to nearest finds the chosen integers again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.passes.quantize_static.layers import Graph, Layer, grouped, ungrouped
from optimizer.passes.quantize_static.moments import second_moments, unfoldable
from optimizer.passes.quantize_static.samples import Calibration

if TYPE_CHECKING:
    import onnx

TOP = 127  # of symmetric int8
ZETA, GAMMA = 1.1, -0.1  # the sigmoid is stretched, so that 0 and 1 are reached (section 3.3)
SHARP, BLUNT = 2.0, 20.0  # the regularizer's exponent at the end and at the start
STEPS = 400
WARM = 0.2  # share of the steps before the regularizer sets in
RATE, MOMENTUM, SCALING = 0.05, 0.9, 0.99  # Adam
DECIDED = 0.01  # as near to 0 or 1 as counts as decided


@dataclass(frozen=True)
class Grid:
    """The integers that a weight may become, and what they are worth."""

    scale: np.ndarray  # float32, one per output channel, shaped to multiply (groups, outer, k)

    @classmethod
    def of(cls, weight: np.ndarray, per_channel: bool) -> Grid:
        """As ONNX Runtime's quantizer computes it: the range divided by 254 in float64, then stored as float32."""
        axes = (2,) if per_channel else (0, 1, 2)
        tops = np.abs(weight).max(axis=axes, keepdims=True).astype(np.float64)
        scale = (2 * tops / (2 * TOP)).astype(np.float32)
        return cls(np.where(scale < np.finfo(np.float32).tiny, np.float32(1), scale))

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.clip(np.rint(weight / self.scale), -TOP, TOP)
        return found

    def values(self, integers: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Weights on the grid; at its ends exactly the largest magnitude of the channel, which makes the grid again."""
        tops = np.broadcast_to(self._tops(weight), weight.shape)
        ends = np.abs(integers) == TOP
        return np.where(ends, np.sign(integers) * tops, integers * self.scale).astype(np.float32)

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
) -> dict[str, Any]:
    """Put the weights of all layers to be quantized onto their grids, in place: how much of the error is left."""
    graph = Graph(model)
    wanted = [layer for layer in graph.layers.values() if takes(layer.node)]
    able = [layer for layer in wanted if unfoldable(layer)]
    chosen: dict[str, np.ndarray] = {}
    left: dict[str, float] = {}
    for layer, moments in second_moments(model, able, data, seed, progress):
        chosen[layer.weight], left[layer.name] = _rounded(graph, layer, moments, per_channel)
    for name, weight in chosen.items():
        graph.put(name, weight)
    nearest = [layer.name for layer in wanted if layer.name not in left]
    return {"layers": len(left), "error": round(float(np.mean(list(left.values()) or [1.0])), 4), "nearest": nearest}


def _rounded(graph: Graph, layer: Layer, moments: np.ndarray, per_channel: bool) -> tuple[np.ndarray, float]:
    """The weight on its grid, and its error as a share of that of rounding to nearest."""
    original = graph.array(layer.weight)
    parts = grouped(layer, original)
    weight = parts.reshape(*parts.shape[:2], -1)
    grid = Grid.of(weight, per_channel)
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
    share = np.clip(scaled - floor, 0.01, 0.99)
    logit = -np.log((ZETA - GAMMA) / (share - GAMMA) - 1)  # starts at the weight as it is
    unit = errors((grid.nearest(weight) - scaled) * grid.scale, moments)[..., None] / weight.shape[2]
    pull = 2 * grid.scale / np.where(unit > 0, unit, np.inf)  # each channel's error counts as k, one per weight
    first, second = np.zeros_like(logit), np.zeros_like(logit)
    up = share
    for step in range(STEPS):
        sigmoid = 1 / (1 + np.exp(-logit))
        up = np.clip(sigmoid * (ZETA - GAMMA) + GAMMA, 0, 1)
        if step > STEPS // 2 and np.abs(up - np.rint(up)).max() < DECIDED:
            break
        slope = pull * (((floor + up - scaled) * grid.scale) @ moments) + _sharpening(up, step)
        slope *= (ZETA - GAMMA) * sigmoid * (1 - sigmoid)
        first += (1 - MOMENTUM) * (slope - first)
        second += (1 - SCALING) * (slope * slope - second)
        late = step + 1
        logit -= RATE * (first / (1 - MOMENTUM**late)) / (np.sqrt(second / (1 - SCALING**late)) + 1e-8)
    found: np.ndarray = np.clip(floor + (up >= 0.5), -TOP, TOP)
    return found


def _sharpening(up: np.ndarray, step: int) -> np.ndarray | float:
    """The slope of 1 - |2 h - 1|^b (equation 24), which pulls to 0 and 1 the stronger the later."""
    late = (step / STEPS - WARM) / (1 - WARM)
    if late <= 0:
        return 0.0
    exponent = SHARP + (BLUNT - SHARP) * 0.5 * (1 + np.cos(np.pi * late))
    centred = 2 * up - 1
    found: np.ndarray = -2 * exponent * np.abs(centred) ** (exponent - 1) * np.sign(centred)
    return found
