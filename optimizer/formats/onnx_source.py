"""Takes a user's ready ONNX file in: copied, checked, its free dimensions named as the recipe names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.protocols import Feeds
from optimizer.values import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx

CONSTANT_IR = 4  # the first version of the format in which an initializer need not be an input


def copy(file: Path, wanted: Signature, out: Path) -> onnx.ModelProto:
    """Write the model of `file`, with its external data, into the directory `out`; returns it.

    Weights are constants, and stay outside the model's own file only where that could not hold them: what exporters
    of old list among the inputs, and scatter over files, no later step need know. `wanted` holds the inputs that the
    recipe states, if any. Raises OptimizerError when the file is damaged or not valid ONNX, and when the recipe's
    inputs are not the file's.
    """
    model = onnx_format.parse(file)
    external = onnx_format.external_files(model)
    for name in external:
        if not (file.parent / name).is_file():
            raise OptimizerError(f"{file} keeps weights in '{name}', which is missing", "copy it beside the model")
    onnx_format.check(file)
    _require_known(model, file)
    renamed = _renamed(file, onnx_format.signature(model), wanted)
    settled = _settle(model)
    if external:
        _take_in(model, file, out)
    _rename_dims(model.graph, renamed)
    if external or renamed or settled:
        (out / onnx_format.FILE).write_bytes(model.SerializeToString())
    else:
        (out / onnx_format.FILE).write_bytes(file.read_bytes())
    return model


def try_run(path: Path, samples: Sequence[Feeds], origin: str) -> None:
    """Open the model in ONNX Runtime and run the samples; raises OptimizerError for refusals and NaN or Inf."""
    session = onnx_format.inference_session(path, None)
    for feeds in samples:
        try:
            found = session.run(None, dict(feeds))
        except onnx_format.ort_faults() as error:
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds.items())
            reason = " ".join(str(error).split())[:300]
            raise OptimizerError(
                f"{origin} does not run on {shapes}: {reason}", "make the data fit the model's inputs: optc inspect"
            ) from None
        for output, array in zip(session.get_outputs(), found, strict=True):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise OptimizerError(
                    f"{origin}: the output '{output.name}' holds NaN or Inf on the first samples",
                    "check weights and preprocessing: a model that does not work is not optimized",
                )


def _require_known(model: onnx.ModelProto, file: Path) -> None:
    """Raise OptimizerError for operators of a set that is newer than all that onnx knows here."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise OptimizerError(
                f"{file} has opset {entry.version}, onnx {onnx.__version__} knows them up to {newest}",
                "export the model with an older opset, such as 18, or install a newer onnx",
            )


def _settle(model: onnx.ModelProto) -> bool:
    """Take initializers off the list of inputs, where they are defaults that a caller may replace; whether any were."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) == len(model.graph.input):
        return False
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, CONSTANT_IR)
    return True


def _take_in(model: onnx.ModelProto, file: Path, out: Path) -> None:
    """Read all external data into the model; where one message cannot hold it, into one file in `out`."""
    from onnx.external_data_helper import (
        convert_model_to_external_data,
        load_external_data_for_model,
        save_external_data,
    )

    load_external_data_for_model(model, str(file.parent))
    if model.ByteSize() <= onnx_format.EXTERNAL_ABOVE:
        return
    convert_model_to_external_data(model, location=onnx_format.DATA, size_threshold=1024)
    (out / onnx_format.DATA).unlink(missing_ok=True)
    for tensor in model.graph.initializer:
        if tensor.external_data:
            save_external_data(tensor, str(out))
            tensor.ClearField("raw_data")


def _renamed(file: Path, found: Signature, wanted: Signature) -> dict[str, str]:
    """Free dimension of the file -> its name in the recipe."""
    if not wanted.inputs:
        return {}
    by_name = {spec.name: spec for spec in found.inputs}
    renamed: dict[str, str] = {}
    for spec in wanted.inputs:
        own = by_name.get(spec.name)
        if own is None or len(wanted.inputs) != len(by_name):
            listed = ", ".join(f"{name}: {by_name[name]}" for name in by_name)
            raise OptimizerError(
                f"model.inputs names {', '.join(s.name for s in wanted.inputs)}; {file.name} takes {listed}",
                "remove model.inputs to use the file's own, or correct it",
            )
        renamed.update(_renamed_dims(file, own, spec))
    return {old: new for old, new in renamed.items() if old != new}


def _renamed_dims(file: Path, own: TensorSpec, spec: TensorSpec) -> Mapping[str, str]:
    pairs = list(zip(own.shape, spec.shape, strict=False))
    agree = all(a == b if isinstance(a, int) else isinstance(b, str) for a, b in pairs)
    if own.dtype != spec.dtype or len(own.shape) != len(spec.shape) or not agree:
        raise OptimizerError(
            f"model.inputs: {spec.name} is {spec}, in {file.name} it is {own}",
            "remove model.inputs to use the file's own, or correct it",
        )
    return {str(a): str(b) for a, b in pairs if isinstance(a, str)}


def _rename_dims(graph: Any, renamed: Mapping[str, str]) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            own = dim.dim_param or (f"{value.name}_{axis}" if not dim.dim_value else "")
            if own in renamed:
                dim.dim_param = renamed[own]
