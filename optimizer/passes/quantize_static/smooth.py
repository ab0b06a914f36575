"""SmoothQuant: outliers of activation channels move into the weights, where one scale per channel holds them.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023,
arXiv 2211.10438, equation 4: channel j of an activation is divided by s_j = max|X_j|^a / max|W_j|^(1-a) and the
weights that read it are multiplied by s_j. The layer computes what it did before. The division is hidden in what makes
the activation. Where nothing can take it, as behind the normalizations of BERT, which a residual sum reads too, the
activation stays as it is, or a multiplication is inserted between normalization and layers if that is asked for.
Before the wide second feed-forward layers of a transformer such multiplications cost time; these are small.
Where one activation's layers make the next activation, the factors are found again until all agree.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import absorb, taps
from optimizer.formats.absorb import Absorber, Constant
from optimizer.formats.calibration import Calibration
from optimizer.formats.layers import Graph, Layer, channels, inner_tops, scale_inputs, settle

if TYPE_CHECKING:
    import onnx

SUFFIX = "_smoothed"
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
    insert: bool,
    progress: Callable[[int, int], None],
) -> dict[str, list[str]]:
    """Smooth every activation of the layers to be quantized, in place: what was done, and what not and why.

    With `insert` a multiplication is put behind normalizations that cannot take the factors; `inserted` names them.
    """
    graph = Graph(model)
    groups = gather(graph, takes)
    able = [group for group in groups if group.source.reason is None or (insert and _normalized(graph, group))]
    skipped = [f"{group.names}: {group.source.reason}" for group in groups if group not in able]
    tops = activation_tops(model, able, data, progress) if able else {}
    able = [_with_mul(graph, group) if group.source.reason else group for group in able]
    settle([functools.partial(_smooth, graph, group, tops[group.tensor], alpha) for group in able])
    inserted = sorted(node.name for node in model.graph.node if node.name.endswith(SUFFIX))
    return {"smoothed": [group.names for group in able], "left": skipped, "inserted": inserted}


def _normalized(graph: Graph, group: Group) -> bool:
    return group.tensor in graph.makers and graph.makers[group.tensor].op_type in absorb.NORMS


def _with_mul(graph: Graph, group: Group) -> Group:
    """The group with a multiplication by ones in front of its layers, which can take any factor."""
    import onnx

    layer, nodes = group.layers[0], graph.model.graph.node
    name, count = group.tensor + SUFFIX, channels(graph, layer)[0]
    across = (count,) if layer.channel == -1 else (count, *[1] * (len(graph.tensors[layer.weight].dims) - 2))
    node = onnx.helper.make_node("Mul", [group.tensor, f"{name}_factor"], [name], name)
    graph.add(f"{name}_factor", np.ones(across))
    readers = {layer.name for layer in group.layers}
    nodes.insert(next(place for place, found in enumerate(nodes) if found.name in readers), node)
    for found in nodes:
        if found.name in readers:
            found.input[0] = name
    kind = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, graph.shape(group.tensor))
    graph.model.graph.value_info.append(kind)
    layers = tuple(replace(layer, node=found) for layer in group.layers for found in nodes if found.name == layer.name)
    return replace(group, layers=layers, source=Absorber((Constant(f"{name}_factor", across),)))


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
    others = absorb.others(graph, tensor, {layer.name for layer in layers})
    if others:
        return Absorber(reason=f"'{tensor}' is also read by {others}")
    widths = {(layer.channel, channels(graph, layer)[0]) for layer in layers}
    if len(widths) != 1:
        return Absorber(reason=f"the layers that read '{tensor}' see its channels differently")
    channel, count = widths.pop()
    return absorb.absorber(graph, tensor, channel, count)


def activation_tops(
    model: onnx.ModelProto, groups: Iterable[Group], data: Calibration, progress: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """The largest magnitude of each channel of each group's activation over the data, as float64."""
    axis = {group.tensor: group.layers[0].channel for group in groups}
    found: dict[str, np.ndarray] = {}
    for values in taps.watch(model, axis, data, lambda done: progress(done, len(data)), together=True):
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
