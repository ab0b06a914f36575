"""The new weights of every layer of an ONNX graph, by the algorithm that was asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import moments
from optimizer.formats.calibration import Calibration
from optimizer.formats.moments import Moments
from optimizer.passes.quantize_weights import autoround, awq, gptq, grid, hqq, layers
from optimizer.passes.quantize_weights.grid import Grid, Quantized
from optimizer.passes.quantize_weights.layers import Layer
from optimizer.passes.quantize_weights.options import CALIBRATED, Options
from optimizer.protocols import Context
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

SUMS = moments.Sums(np.float64, together=True, held=512)
# Algorithms that round one layer after the other: (weights, second moments of its inputs, grid) -> codes.
ALONE: Mapping[str, Callable[[np.ndarray, np.ndarray, Grid], Quantized]] = {
    "gptq": gptq.quantized,
    "autoround": autoround.quantized,
}


@dataclass(frozen=True)
class Decided:
    """Layers that read one tensor, their new weights, and what that tensor is to be divided by."""

    layers: Sequence[Layer]
    found: Sequence[Quantized]
    factors: np.ndarray | None = None


def decided(
    model: onnx.ModelProto, chosen: Sequence[Layer], steps: Grid, options: Options, ctx: Context, source: Artifact
) -> Iterator[Decided]:
    """The new weights of every layer; `model` still holds the old ones. Tables have no inputs to be calibrated on."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    plain = hqq.quantized if options.algorithm == "hqq" else grid.nearest
    calibrated = options.algorithm in CALIBRATED
    for layer in chosen:
        if layer.table or not calibrated:
            yield Decided([layer], [plain(layers.weights(tensors[layer.weight], layer), steps)])
    if not calibrated:
        return
    readers: defaultdict[str, list[Layer]] = defaultdict(list)
    for layer in chosen:
        if not layer.table:
            readers[layer.input].append(layer)
    data = Calibration(ctx.data["calibrate"], source.signature, options.samples)
    wanted = {name: _wanted(name, tensors[own[0].weight], own[0]) for name, own in readers.items()}
    work = moments.Work(ctx.progress, len(wanted))
    for found in moments.gather(model, wanted, data, SUMS, work.reading):
        _refuse_infinite(found)
        _warn_of_few(found, ctx.warn)
        for name, seen in found.items():
            own = [layers.weights(tensors[layer.weight], layer) for layer in readers[name]]
            yield _by_inputs(readers[name], own, seen.matrix[0], steps, options)
            work.advance()


def _by_inputs(
    read: Sequence[Layer], own: Sequence[np.ndarray], hessian: np.ndarray, steps: Grid, options: Options
) -> Decided:
    if options.algorithm == "awq":
        scaled = awq.quantized(own, hessian, steps)
        return Decided(read, scaled.layers, scaled.factors)
    return Decided(read, [ALONE[options.algorithm](weights, hessian, steps) for weights in own])


def _wanted(name: str, weight: onnx.TensorProto, layer: Layer) -> moments.Wanted:
    width = int(weight.dims[0 if layer.turned else 1])
    return moments.Wanted(name, (1, width, width), lambda values: values.reshape(1, -1, width))


def _refuse_infinite(found: Mapping[str, Moments]) -> None:
    bad = [name for name, seen in found.items() if not np.isfinite(seen.matrix).all()]
    if bad:
        raise OptimizerError(
            f"the calibration data makes values that are not finite: {', '.join(bad[:5])}",
            "look for infinities in the data with optc inspect, or use rtn or hqq, which need none",
        )


def _warn_of_few(found: Mapping[str, Moments], warn: Callable[[str], None]) -> None:
    few = {name: seen for name, seen in found.items() if seen.rows < seen.matrix.shape[1]}
    if few:
        name, seen = min(few.items(), key=lambda item: item[1].rows / item[1].matrix.shape[1])
        warn(
            f"{len(few)} of {len(found)} layer inputs have fewer calibration rows than columns, such as {name} with "
            f"{seen.rows} rows for {seen.matrix.shape[1]} columns; more samples would decide better"
        )
