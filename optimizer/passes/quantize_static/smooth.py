"""SmoothQuant: outliers of activation channels move into the weights, where one scale per channel holds them.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023,
arXiv 2211.10438, equation 4: channel j of an activation is divided by s_j = max|X_j|^a / max|W_j|^(1-a) and the
weights that read it are multiplied by s_j. The layer computes what it did before. The division is hidden in what makes
the activation; where nothing can take it, the activation stays as it is, since another multiplication costs time.
Where one activation's layers make the next activation, the factors are found again until all agree.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.passes.quantize_static import probe
from optimizer.passes.quantize_static.absorb import Absorber, absorber
from optimizer.passes.quantize_static.layers import Graph, Layer, channels, inner_tops, scale_inputs, settle
from optimizer.passes.quantize_static.samples import Calibration

if TYPE_CHECKING:
    import onnx

ALPHA = 0.5  # half of the difficulty moves: what the paper uses for most models (section 4.3)


@dataclass(frozen=True)
class Group:
    """All layers that read one activation, such as query, key and value, and what makes it."""

    tensor: str
    layers: tuple[Layer, ...]
    source: Absorber

    @property
    def names(self) -> str:
        return ", ".join(layer.name for layer in self.layers)


def smooth(
    model: onnx.ModelProto,
    takes: Callable[[onnx.NodeProto], bool],
    data: Calibration,
    alpha: float,
    progress: Callable[[int, int], None],
) -> dict[str, list[str]]:
    """Smooth every activation of the layers to be quantized, in place: what was done, and what not and why."""
    graph = Graph(model)
    groups = gather(graph, takes)
    able = [group for group in groups if group.source.reason is None]
    skipped = [f"{group.names}: {group.source.reason}" for group in groups if group.source.reason]
    tops = activation_tops(model, able, data, progress) if able else {}
    settle([functools.partial(_smooth, graph, group, tops[group.tensor], alpha) for group in able])
    return {"smoothed": [group.names for group in able], "left": skipped}


def gather(graph: Graph, takes: Callable[[onnx.NodeProto], bool]) -> list[Group]:
    """The layers to be quantized by the activation that they read."""
    readers: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in graph.layers.values():
        readers[layer.data].append(layer)
    return [
        Group(tensor, tuple(layers), _source(graph, tensor, layers))
        for tensor, layers in readers.items()
        if any(takes(layer.node) for layer in layers)
    ]


def _source(graph: Graph, tensor: str, layers: list[Layer]) -> Absorber:
    others = [node.name for node in graph.readers[tensor] if node.name not in {layer.name for layer in layers}]
    if others or any(value.name == tensor for value in graph.model.graph.output):
        return Absorber(reason=f"'{tensor}' is also read by {', '.join(others[:3]) or 'whoever runs the model'}")
    widths = {(layer.channel, channels(graph, layer)[0]) for layer in layers}
    if len(widths) != 1:
        return Absorber(reason=f"the layers that read '{tensor}' see its channels differently")
    channel, count = widths.pop()
    return absorber(graph, tensor, channel, count)


def activation_tops(
    model: onnx.ModelProto, groups: Iterable[Group], data: Calibration, progress: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """The largest magnitude of each channel of each group's activation over the data, as float64."""
    axis = {group.tensor: group.layers[0].channel for group in groups}
    found: dict[str, np.ndarray] = {}
    for values in probe.watch(model, axis, data, lambda done: progress(done, len(data)), together=True):
        for name, value in values.items():
            tops = np.abs(np.moveaxis(value, axis[name], 0)).reshape(value.shape[axis[name]], -1).max(axis=1)
            found[name] = np.maximum(found.get(name, tops), tops).astype(np.float64)
    return found


def factors(graph: Graph, group: Group, tops: np.ndarray, alpha: float) -> np.ndarray:
    """s_j for each channel, shared by the layers; 1 where activation or weights are nothing but zeros."""
    weights = np.max([inner_tops(layer, graph.array(layer.weight)) for layer in group.layers], axis=0)
    alive = (tops > 0) & (weights > 0) & np.isfinite(tops) & group.source.alive(graph)
    found = np.ones(len(weights))
    found[alive] = tops[alive] ** alpha / weights[alive].astype(np.float64) ** (1 - alpha)
    return found


def _smooth(graph: Graph, group: Group, tops: np.ndarray, alpha: float) -> float:
    """Smooth one activation, and `tops` with it; how far the factors are from 1."""
    factor = factors(graph, group, tops, alpha)
    group.source.scale(graph, 1 / factor)
    for layer in group.layers:
        scale_inputs(graph, layer, factor)
    tops /= factor
    return float(np.abs(factor - 1).max())
