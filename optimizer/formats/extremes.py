"""The smallest and the largest value of tensors inside an ONNX graph, inference by inference: no tensor leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import taps
from optimizer.protocols import Feeds

if TYPE_CHECKING:
    import onnx


def extremes(
    model: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feeds], progress: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Per inference the lowest and the highest value of each tensor, float64 (tensors,) each; empty tensors give 0.

    `progress` is told the number of samples done. `model` is changed until the first values come.
    """
    names = [f"optc_range_{kind}{i}" for kind in ("min", "max") for i in range(len(tensors))]
    for values in scalars(model, names, reductions(tensors, names), feeds, progress):
        yield values[: len(tensors)], values[len(tensors) :]


def reductions(tensors: Sequence[str], names: Sequence[str]) -> list[onnx.NodeProto]:
    """Nodes that compute the minimum of each tensor, then the maximum of each, under these names."""
    import onnx

    kinds = ["ReduceMin"] * len(tensors) + ["ReduceMax"] * len(tensors)
    return [
        onnx.helper.make_node(kind, [tensor], [name], name=name, keepdims=1)
        for kind, tensor, name in zip(kinds, (*tensors, *tensors), names, strict=True)
    ]


def scalars(
    model: onnx.ModelProto,
    names: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    feeds: Iterable[Feeds],
    progress: Callable[[int], None],
) -> Iterator[np.ndarray]:
    """Per inference the first element of each named tensor, float64; `nodes` are added to compute them."""
    session = taps.session(model, names, nodes)
    done = 0
    for given in feeds:
        yield np.array([_first(value) for value in taps.run(session, names, given)], dtype=np.float64)
        done += taps.rows(given)
        progress(done)


def _first(value: np.ndarray) -> float:
    return float(value.ravel()[0]) if value.size else 0.0
