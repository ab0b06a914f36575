"""Second moments of what layers read: E[x x^T] over calibration data, where y = W x for every position of the output.

The squared error of a layer's output after its weights move by D is then tr(D E[x x^T] D^T), for any D. Memory holds
these matrices, not the data: ROOM bytes of them per pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import taps
from optimizer.formats.calibration import Calibration
from optimizer.passes.quantize_static.layers import Graph, Layer, grouped

if TYPE_CHECKING:
    import onnx

ROOM = 256_000_000  # bytes of moments at a time; a layer that needs more comes alone
ROWS = 64  # positions per layer and sample, chosen at random: neighbours hardly differ


def second_moments(
    model: onnx.ModelProto,
    layers: Sequence[Layer],
    data: Calibration,
    seed: int,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Layer, np.ndarray]]:
    """Each layer with its moments (groups, k, k), k being the input values that an output value is a sum over.

    Leave the model as it is until all have come: they are taken in several passes.
    """
    graph = Graph(model)
    parts = list(_portions(graph, layers))
    random = np.random.default_rng(seed)
    for number, part in enumerate(parts):
        sums = {layer.name: np.zeros(_size(graph, layer), np.float32) for layer in part}
        counts = dict.fromkeys(sums, 0)
        step = functools.partial(_report, progress, number * len(data), len(parts) * len(data))
        for values in taps.watch(model, {layer.data for layer in part}, data, step):
            for layer in part:
                rows = unfolded(graph, layer, values[layer.data], random)
                sums[layer.name] += rows.transpose(0, 2, 1) @ rows
                counts[layer.name] += rows.shape[1]
        for layer in part:
            yield layer, sums.pop(layer.name) / max(counts[layer.name], 1)


def _report(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _size(graph: Graph, layer: Layer) -> tuple[int, int, int]:
    dims = grouped(layer, np.broadcast_to(np.float32(0), graph.tensors[layer.weight].dims)).shape
    return dims[0], dims[2] * dims[3], dims[2] * dims[3]


def _portions(graph: Graph, layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    part: list[Layer] = []
    room = ROOM
    for layer in layers:
        need = 4 * int(np.prod(_size(graph, layer)))
        if part and need > room:
            yield part
            part, room = [], ROOM
        part.append(layer)
        room -= need
    if part:
        yield part


def unfolded(graph: Graph, layer: Layer, value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What `ROWS` random outputs per sample are sums over: (groups, rows, k)."""
    if layer.channel == -1:
        rows = value.reshape(1, -1, value.shape[-1])
        return rows[:, _some(rows.shape[1], ROWS * len(value), random)]
    windows = _windows(layer, value, graph.tensors[layer.weight].dims[2:])
    flat = windows.reshape(len(value), windows.shape[1], -1, windows.shape[-1])  # n, channels, positions, kernel
    flat = flat[:, :, _some(flat.shape[2], ROWS, random)]
    split = flat.reshape(len(value), layer.groups, -1, *flat.shape[2:]).transpose(1, 0, 3, 2, 4)
    return split.reshape(layer.groups, len(value) * flat.shape[2], -1)


def _some(count: int, limit: int, random: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= limit else np.sort(random.permutation(count)[:limit])


def _windows(layer: Layer, value: np.ndarray, kernel: Sequence[int]) -> np.ndarray:
    """The receptive fields of a convolution: (n, channels, *positions, size of the kernel)."""
    found = {attribute.name: list(attribute.ints) for attribute in layer.node.attribute}
    axes = len(kernel)
    pads = found.get("pads") or [0] * 2 * axes
    strides, steps = found.get("strides") or [1] * axes, found.get("dilations") or [1] * axes
    padded = np.pad(value, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    reach = tuple((size - 1) * step + 1 for size, step in zip(kernel, steps, strict=True))
    seen = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    places = tuple(slice(None, None, stride) for stride in strides)
    inside = tuple(slice(None, None, step) for step in steps)
    seen = seen[(slice(None), slice(None), *places, *inside)]
    return seen.reshape(*seen.shape[: 2 + axes], -1)


def unfoldable(layer: Layer) -> bool:
    """Whether the receptive fields are known: padding is written out, and it is no transposed convolution."""
    automatic = next((a.s.decode() for a in layer.node.attribute if a.name == "auto_pad"), "NOTSET")
    return layer.node.op_type in ("MatMul", "Gemm") or (layer.node.op_type == "Conv" and automatic in ("", "NOTSET"))
