"""The range of every activation over calibration data, read in a stream: memory holds one inference at a time.

ONNX Runtime's own histogram calibration keeps all activations of all samples (onnxruntime#10503: 256 GB).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimizer import machine
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.passes.quantize_static import thresholds
from optimizer.passes.quantize_static.samples import Calibration

if TYPE_CHECKING:
    import onnx
    import onnxruntime

PREFIX = "optc_range_"


@dataclass(frozen=True)
class Range:
    """Smallest and largest value of a tensor."""

    low: float
    high: float

    @property
    def finite(self) -> bool:
        """False for masks of -inf or the lowest float, which no scale can hold beside ordinary values."""
        return -1e30 < self.low <= self.high < 1e30  # also False for NaN

    @property
    def top(self) -> float:
        return max(abs(self.low), abs(self.high))


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    data: Calibration,
    choose: Callable[[np.ndarray, float], float] | None,
    progress: Callable[[int, int], None],
) -> dict[str, Range]:
    """The range of each tensor of the model over the data.

    With `choose` a second pass counts magnitudes into a histogram per tensor, and the range is clipped at
    `choose(counts, top)`. `model` is changed meanwhile, and as before when this returns.
    """
    passes = 2 if choose else 1
    found = _extremes(model, tensors, data, lambda done: progress(done, passes * len(data)))
    if choose is None:
        return found
    clipped = [name for name, seen in found.items() if seen.finite and seen.top > 0]
    counts = _histograms(
        model, {n: found[n].top for n in clipped}, data, lambda done: progress(len(data) + done, passes * len(data))
    )
    for name in clipped:
        limit = choose(counts[name], found[name].top)
        found[name] = Range(max(found[name].low, -limit), min(found[name].high, limit))
    return found


def _extremes(
    model: onnx.ModelProto, tensors: Sequence[str], data: Calibration, progress: Callable[[int], None]
) -> dict[str, Range]:
    """Smallest and largest value of each tensor; ONNX Runtime reduces them, so that no tensor leaves it."""
    lows, highs = np.full(len(tensors), np.inf), np.full(len(tensors), -np.inf)
    names = [f"{PREFIX}{kind}{i}" for kind in ("min", "max") for i in range(len(tensors))]
    session = _session(model, tuple(zip(tensors, names, names[len(tensors) :], strict=False)), ())
    done = 0
    for feeds in data.feeds(together=True):
        values = np.array([_extreme(v) for v in _run(session, names, feeds)], dtype=np.float64)
        # A NaN stays: such a tensor is not quantized, and the check of the result names it.
        lows, highs = np.minimum(lows, values[: len(tensors)]), np.maximum(highs, values[len(tensors) :])
        done += _rows(feeds)
        progress(min(done, len(data)))
    return {name: Range(float(low), float(high)) for name, low, high in zip(tensors, lows, highs, strict=True)}


def _extreme(value: np.ndarray) -> float:
    return float(value.ravel()[0]) if value.size else 0.0


def _histograms(
    model: onnx.ModelProto, tops: Mapping[str, float], data: Calibration, progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    """Counts of magnitudes per tensor, one sample at a time."""
    counts = {name: np.zeros(thresholds.BINS, dtype=np.int64) for name in tops}
    inputs = {spec.name for spec in data.signature.inputs}
    inner = [name for name in tops if name not in inputs]
    session = _session(model, (), inner)
    for done, feeds in enumerate(data.feeds(), start=1):
        for name in inputs & tops.keys():
            counts[name] += thresholds.bins_of(feeds[name], tops[name])
        for name, value in zip(inner, _run(session, inner, feeds), strict=True):
            counts[name] += thresholds.bins_of(value, tops[name])
        progress(min(done, len(data)))
    return counts


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    return max((len(array) for array in feeds.values() if array.ndim), default=1)


def _run(
    session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    try:
        found: list[np.ndarray] = session.run(names, dict(feeds))
    except onnx_format.ort_faults() as error:
        given = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in feeds.items())
        raise OptimizerError(
            f"the model does not run on the calibration sample {given}: {' '.join(str(error).split())[:300]}",
            "the data must have the shapes and types of the model's inputs; optc inspect shows them",
        ) from None
    return found


def _session(
    model: onnx.ModelProto, reduced: Iterable[tuple[str, str, str]], outputs: Iterable[str]
) -> onnxruntime.InferenceSession:
    """A session that also gives the extremes of the `reduced` (tensor, min, max) and the tensors in `outputs`.

    The graph is extended in place and restored, which spares a second copy of the weights.
    """
    import onnx

    graph = model.graph
    nodes, results = len(graph.node), len(graph.output)
    try:
        _extend(graph, reduced, outputs)
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            onnx_format.save(model, Path(folder))
            session = onnx_format.inference_session(Path(folder), machine.here().cores)
            # Saving moves the weights of a large model out of the message.
            onnx.load_external_data_for_model(model, folder)
            return session
    finally:
        del graph.node[nodes:]
        del graph.output[results:]


def _extend(graph: onnx.GraphProto, reduced: Iterable[tuple[str, str, str]], outputs: Iterable[str]) -> None:
    import onnx

    present = {value.name for value in graph.output}
    for tensor, low, high in reduced:
        graph.node.append(onnx.helper.make_node("ReduceMin", [tensor], [low], name=low, keepdims=1))
        graph.node.append(onnx.helper.make_node("ReduceMax", [tensor], [high], name=high, keepdims=1))
        for name in (low, high):
            graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    for tensor in outputs:
        if tensor not in present:
            graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
