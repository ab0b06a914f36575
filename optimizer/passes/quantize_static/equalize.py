"""Cross-layer equalization: weight ranges of consecutive layers become equal, channel by channel.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721,
section 4.1: between two layers with a positive homogeneous function between them, channel i of the first is divided
by s_i = sqrt(r1_i / r2_i) and that of the second multiplied, r being the largest magnitudes of the weights. Afterwards
both ranges are sqrt(r1_i r2_i). Chains are gone through until nothing moves any more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.formats.absorb import Absorber, absorber
from optimizer.formats.layers import Graph, Layer, channels, inner_tops, outer_tops, scale_inputs, settle

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Pair:
    """A layer, and the only layer that reads it."""

    first: Layer
    second: Layer
    between: Absorber  # from the second one's input up to the first one's weights


def equalize(model: onnx.ModelProto, takes: Callable[[onnx.NodeProto], bool]) -> dict[str, Any]:
    """Equalize all pairs whose second layer is to be quantized, in place: which pairs, in how many rounds."""
    graph = Graph(model)
    found = [pair for pair in pairs(graph) if takes(pair.first.node) or takes(pair.second.node)]
    rounds = settle([functools.partial(_balance, graph, pair) for pair in found])
    return {"pairs": [f"{pair.first.name} -> {pair.second.name}" for pair in found], "rounds": rounds}


def pairs(graph: Graph) -> list[Pair]:
    """The pairs of layers with nothing but positive homogeneous operations between them."""
    found = []
    for layer in graph.layers.values():
        if graph.alone(layer.data):
            between = absorber(graph, layer.data, layer.channel, channels(graph, layer)[0])
            if between.layer:
                found.append(Pair(between.layer, layer, between))
    return found


def _balance(graph: Graph, pair: Pair) -> float:
    """Equalize one pair; how far the factors are from 1."""
    first = outer_tops(pair.first, graph.array(pair.first.weight)).astype(np.float64)
    second = inner_tops(pair.second, graph.array(pair.second.weight)).astype(np.float64)
    alive = (first > 0) & (second > 0)  # a dead channel has no range to share
    factors = np.ones(len(first))
    factors[alive] = np.sqrt(first[alive] / second[alive])
    pair.between.scale(graph, 1 / factors)
    scale_inputs(graph, pair.second, factors)
    return float(np.abs(factors - 1).max())
