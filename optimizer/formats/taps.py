"""Values from inside an ONNX graph: a session that gives them too, run on calibration samples."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimizer import machine
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats.calibration import Calibration

if TYPE_CHECKING:
    import onnx
    import onnxruntime


def session(
    model: onnx.ModelProto, outputs: Iterable[str], nodes: Sequence[onnx.NodeProto] = ()
) -> onnxruntime.InferenceSession:
    """A session of the model with these `nodes` added, which also gives the float tensors in `outputs`.

    The graph is extended in place and restored, which spares a second copy of the weights.
    """
    import onnx

    graph = model.graph
    before = len(graph.node), len(graph.output)
    try:
        present = {value.name for value in graph.output}
        graph.node.extend(nodes)
        for name in outputs:
            if name not in present:
                graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            onnx_format.save(model, Path(folder))
            found = onnx_format.inference_session(Path(folder), machine.here().cores)
            # Saving moves the weights of a large model out of the message.
            onnx.load_external_data_for_model(model, folder)
            return found
    finally:
        del graph.node[before[0] :]
        del graph.output[before[1] :]


def float_values(model: onnx.ModelProto, names: Iterable[str]) -> set[str]:
    """Those of the named values that are float32, as ONNX Runtime has it: it knows operators that ONNX does not."""
    import onnx

    graph, before = model.graph, len(model.graph.output)
    present = {value.name for value in graph.output}
    try:
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            onnx_format.save(model, Path(folder))
            found = onnx_format.inference_session(Path(folder), 1, "none").get_outputs()
            onnx.load_external_data_for_model(model, folder)
            return {output.name for output in found if output.type == "tensor(float)"}
    finally:
        del graph.output[before:]


def run(
    session: onnxruntime.InferenceSession, names: Sequence[str], feeds: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The named values on one sample. Raises OptimizerError when the model does not take it."""
    try:
        found: list[np.ndarray] = session.run(names, dict(feeds))
    except onnx_format.ort_faults() as error:
        given = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in feeds.items())
        raise OptimizerError(
            f"the model does not run on the calibration sample {given}: {' '.join(str(error).split())[:300]}",
            "the data must have the shapes and types of the model's inputs; optc inspect shows them",
        ) from None
    return found


def watch(
    model: onnx.ModelProto,
    tensors: Iterable[str],
    data: Calibration,
    progress: Callable[[int], None],
    together: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """The values of the tensors, inputs of the model among them, inference by inference: memory holds no more.

    `model` is changed until the first values come, and as before from then on.
    """
    names = list(dict.fromkeys(tensors))
    inputs = {spec.name for spec in data.signature.inputs}
    inner = [name for name in names if name not in inputs]
    opened = session(model, inner)
    done = 0
    for feeds in data.feeds(together):
        found = dict(zip(inner, run(opened, inner, feeds), strict=True)) if inner else {}
        yield found | {name: np.asarray(feeds[name]) for name in names if name in inputs}
        done += rows(feeds)
        progress(min(done, len(data)))


def rows(feeds: Mapping[str, np.ndarray]) -> int:
    """How many samples one inference takes."""
    return max((len(array) for array in feeds.values() if array.ndim), default=1)
