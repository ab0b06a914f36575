"""The second moments of every layer's inputs, where y = W x for every position of the output."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import moments
from optimizer.formats.calibration import Calibration
from optimizer.formats.layers import Graph, Layer, grouped

if TYPE_CHECKING:
    import onnx

ROWS = 64  # positions per layer and sample, chosen at random: neighbours hardly differ
SUMS = moments.Sums(np.float32, together=False, held=1)


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
    graph, random = Graph(model), np.random.default_rng(seed)
    wanted = {
        layer.name: moments.Wanted(
            layer.data, _size(graph, layer), functools.partial(unfolded, graph, layer, random=random)
        )
        for layer in layers
    }
    work = moments.Work(progress, len(wanted))
    for found in moments.gather(model, wanted, data, SUMS, work.reading):
        for name in list(found):
            yield graph.layers[name], found.pop(name).matrix
            work.advance()


def _size(graph: Graph, layer: Layer) -> tuple[int, int, int]:
    dims = grouped(layer, np.broadcast_to(np.float32(0), graph.tensors[layer.weight].dims)).shape
    return dims[0], dims[2] * dims[3], dims[2] * dims[3]


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
