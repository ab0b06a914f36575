"""An ONNX model in memory as quantizers and converters want it: folded, nodes named, every type known.

ONNX Runtime's own `quant_pre_process` dies on graphs of torch's exporter in its symbolic shape inference, and its
quantizers infer shapes into a file beside the source; this needs neither.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError
from optimizer.formats import nodes
from optimizer.formats import onnx as onnx_format
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

OPSET = 17  # what an older model is converted to, or to what is needed where that is later
PER_CHANNEL_OPSET = 13
FOLDED = frozenset(("BatchNormalization", "Constant", "Identity", "Dropout"))  # gone after basic optimization
INFERRED = ("onnx.infer", "onnxruntime.quant")  # tells the quantizers that shapes are there


def prepared(source: Artifact, least: int = PER_CHANNEL_OPSET, paired: bool = False) -> onnx.ModelProto:
    """The model in memory as the quantizer wants it: folded, at opset `least` or later, nodes named, types known.

    `paired`: it may hold Q/DQ pairs; then it was folded before they came, and folding would take weights out of them.
    """
    import onnx

    model = onnx_format.load(source.path)
    if not paired and nodes.paired(model):
        raise OptimizerError("the model is quantized already", "start from the float model")
    if not paired and any(node.op_type in FOLDED for node in model.graph.node):
        model = _folded(source)
    model = _raised(model, least)
    nodes.name_nodes(model)
    if _untyped(model):
        model = _inferred(model)
    entry = onnx.StringStringEntryProto(key=INFERRED[0], value=INFERRED[1])
    model.metadata_props.append(entry)
    return model


def _folded(source: Artifact) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimizations: constants folded, batch normalization in the weights."""
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:

        def configure(settings: Any) -> None:
            settings.optimized_model_filepath = str(Path(folder) / onnx_format.FILE)
            if source.size > onnx_format.EXTERNAL_ABOVE:
                entry = "session.optimized_model_external_initializers_file_name"
                settings.add_session_config_entry(entry, onnx_format.DATA)

        onnx_format.inference_session(source.path, None, "basic", configure=configure)
        return onnx_format.load(Path(folder))


def _raised(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model as it is where its opset is sufficient, else converted."""
    import onnx.version_converter

    version = next(opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx"))
    if version >= least:
        return model
    wanted = max(least, OPSET)
    try:
        found = onnx.version_converter.convert_version(model, wanted)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise OptimizerError(
            f"the model has opset {version}, this step needs {least}, and onnx cannot convert it: "
            f"{' '.join(str(error).split())[:200]}",
            f"export the model again with opset {wanted} or later",
        ) from None
    notes = {node.name: node.metadata_props for node in model.graph.node if node.name}  # which the converter drops
    for node in found.graph.node:
        if not node.metadata_props:
            node.metadata_props.extend(notes.get(node.name, ()))
    return found


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    return {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}


def _untyped(model: onnx.ModelProto) -> bool:
    known = types(model)
    return any(name not in known for node in model.graph.node for name in node.output if name)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx.shape_inference

    if model.ByteSize() <= onnx_format.EXTERNAL_ABOVE:
        return onnx.shape_inference.infer_shapes(model)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        onnx_format.save(model, Path(folder))
        onnx.shape_inference.infer_shapes_path(str(Path(folder) / onnx_format.FILE))
        return onnx_format.load(Path(folder))


def unmark(model: onnx.ModelProto) -> None:
    """Take the mark for the quantizers away again."""
    for entry in list(model.metadata_props):
        if (entry.key, entry.value) == INFERRED:
            model.metadata_props.remove(entry)
