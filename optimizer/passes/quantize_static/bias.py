"""Bias correction: what quantization moves the mean of a layer's output by is taken from the layer's bias.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721,
section 4.2, in its empirical form. Every quantized layer runs beside the float one on the same float input, rounded
as the quantized model rounds it, so that one pass over the data serves all layers and their order does not matter.
A pass per layer on the quantized model's own inputs would see errors of earlier layers too, but corrects them again in
every layer that they reach, and takes as many passes as there are layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.formats import taps
from optimizer.formats.calibration import Calibration
from optimizer.formats.layers import Graph, Layer, channels
from optimizer.formats.nodes import PAIR

if TYPE_CHECKING:
    import onnx

PREFIX = "optc_beside_"
BIASED = ("Conv", "ConvTranspose", "Gemm")  # operators that have an input for a bias


def correct(
    model: onnx.ModelProto,
    takes: Callable[[onnx.NodeProto], bool],
    insert: Callable[[onnx.ModelProto], None],
    data: Calibration,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Correct the biases of the float model in place; `insert` quantizes a copy of it to see what that does."""
    graph = Graph(model)
    wanted = [layer for layer in graph.layers.values() if takes(layer.node)]
    able = [layer for layer in wanted if offset(graph, layer) or layer.node.op_type in BIASED]
    quantized = copy.deepcopy(model)
    insert(quantized)
    shifts = mean_shifts(model, quantized, able, data, progress)
    for layer in able:
        if layer.name in shifts:
            _subtract(graph, layer, shifts[layer.name])
    left = [layer.name for layer in wanted if layer.name not in shifts]
    return {"corrected": len(shifts), "left": left, "largest": max(map(_top, shifts.values()), default=0.0)}


def _top(shift: np.ndarray) -> float:
    return float(np.abs(shift).max())


def offset(graph: Graph, layer: Layer) -> str | None:
    """The constant that is added to each output channel: the layer's own bias, or that of an addition after it."""
    name = layer.bias
    if name is None and graph.alone(layer.output):
        reader = graph.readers[layer.output][0]
        name = next((n for n in reader.input if reader.op_type == "Add" and graph.own(n)), None)
    if name is None:
        return None
    dims = list(graph.tensors[name].dims)
    spread = layer.channel == -1 and dims[-1:] == [channels(graph, layer)[1]] and all(size == 1 for size in dims[:-1])
    return name if spread or (name == layer.bias and len(dims) == 1) else None


def _subtract(graph: Graph, layer: Layer, shift: np.ndarray) -> None:
    name = offset(graph, layer)
    if name:
        graph.put(name, graph.array(name) - shift)
        return
    name = f"{layer.weight}_correction"
    graph.add(name, -shift)
    del layer.node.input[2:]
    layer.node.input.append(name)


def mean_shifts(
    model: onnx.ModelProto,
    quantized: onnx.ModelProto,
    layers: Iterable[Layer],
    data: Calibration,
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """By how much the mean of each output channel moves when the layer is quantized, for the layers that are."""
    both = _Beside(model, quantized)
    watched = {name: layer for layer in layers if (name := both.add(layer))}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    for values in taps.watch(both.model, watched, data, lambda done: progress(done, len(data)), together=True):
        for name, value in values.items():
            rows = np.moveaxis(value, watched[name].channel, 0).reshape(value.shape[watched[name].channel], -1)
            sums[name] = sums.get(name, 0) + rows.sum(axis=1, dtype=np.float64)
            counts[name] = counts.get(name, 0) + rows.shape[1]
    found = {watched[name].name: total / max(counts[name], 1) for name, total in sums.items()}
    return {name: shift for name, shift in found.items() if np.isfinite(shift).all()}


class _Beside:
    """A copy of the float model with quantized layers beside the float ones."""

    def __init__(self, model: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        self.model = copy.deepcopy(model)
        self._nodes = {node.name: node for node in quantized.graph.node}
        self._makers = {name: node for node in quantized.graph.node for name in node.output}
        self._constants = {tensor.name: tensor for tensor in quantized.graph.initializer}
        self._copied: set[str] = set()

    def add(self, layer: Layer) -> str | None:
        """Put the quantized form of a layer beside it; the tensor of their difference, or None: it stayed in float."""
        import onnx

        node = self._nodes.get(layer.name)
        if node is None or node.op_type != layer.node.op_type or not self._restored(node.input[0]):
            return None
        names = [self._rounded(name, layer.data) if name else "" for name in node.input]
        made = onnx.NodeProto()
        made.CopyFrom(node)
        result = f"{PREFIX}{layer.name}"
        made.name, made.input[:], made.output[:] = result, names, [result]
        difference = f"{result}_difference"
        self.model.graph.node.append(made)
        self.model.graph.node.append(onnx.helper.make_node("Sub", [result, layer.output], [difference], difference))
        return difference

    def _restored(self, name: str) -> bool:
        return name in self._makers and self._makers[name].op_type == "DequantizeLinear"

    def _rounded(self, name: str, data: str) -> str:
        """The tensor that a quantized layer reads, made again from constants and from `data` by Q/DQ nodes."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type not in PAIR:
            return self._constant(name) if name in self._constants else data
        result = f"{PREFIX}{name}_of_{data}"
        if result not in self._copied:
            inputs = [self._rounded(n, data) for n in maker.input]
            made = type(maker)()
            made.CopyFrom(maker)
            made.name, made.input[:], made.output[:] = result, inputs, [result]
            self.model.graph.node.append(made)
            self._copied.add(result)
        return result

    def _constant(self, name: str) -> str:
        result = PREFIX + name
        if result not in self._copied:
            made = type(self._constants[name])()
            made.CopyFrom(self._constants[name])
            made.name = result
            self.model.graph.initializer.append(made)
            self._copied.add(result)
        return result
