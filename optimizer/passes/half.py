"""half: 16-bit floats, stored or computed, as far as the target has them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from optimizer import selectors
from optimizer.errors import OptimizerError, missing_extra
from optimizer.formats import nodes, onnx_ready
from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.formats.quiet import quiet
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

VERSION = 1
CONSUMES = ("onnx", "openvino")
PRODUCES = None
TOOLS = ("onnx", "onnxconverter-common")
DATA: tuple[str, ...] = ()
SCHEMED = True
LIMIT = None
FLOAT, FLOAT16 = 1, 10  # of onnx.TensorProto
CAPABILITY = {"fp16": "FP16", "bf16": "BF16"}  # in OpenVINO's words


class Options(Strict):
    """Which 16-bit type, and what stays in 32 bits."""

    dtype: Literal["fp16", "bf16"] = Field("fp16", description="IEEE half precision, or bfloat16")
    keep: list[str] = Field([], description="left in float32: node names with * and ?, /regular expressions/, op:Type")


def scheme_tools(scheme: QuantScheme) -> tuple[str, ...]:
    """The distributions that decide the result for a target."""
    return ("openvino",) if scheme.format == "openvino" else TOOLS


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    if options.dtype not in scheme.half:
        return f"{scheme.target} does not run {options.dtype}; available: {', '.join(scheme.half) or 'none'}"
    if scheme.format == "openvino" and options.keep:
        return "for openvino the plugin decides which operations run in 16 bits; keep is an option for onnxruntime"
    return None


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the model in 16 bits; inputs and outputs keep their types."""
    if source.format == "openvino":
        _openvino(source, options, ctx, out)
    else:
        _onnx(source, options, ctx, out)


def _openvino(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Store weights in fp16 where that is the type, and ask the runtime to compute in it."""
    able = openvino_format.library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if CAPABILITY[options.dtype] not in able:
        ctx.warn(f"this CPU has no {options.dtype} arithmetic: OpenVINO will compute in another type here")
    model = openvino_format.load(source.path)
    half = options.dtype == "fp16"
    openvino_format.save(model, out, half=half, precision="f16" if half else "bf16")


def _onnx(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Convert tensors and weights to fp16; what must stay float32 is surrounded by casts."""
    model = onnx_ready.prepared(source)
    onnx_ready.unmark(model)
    kept = selectors.select(options.keep, nodes.onnx_nodes(model), "half: keep")
    result = _converted(model, kept)
    onnx_format.save(result, out)
    onnx_format.inference_session(out, 1, "none")  # types are checked here; the converter does not look
    ctx.note("kept", sorted(kept))


def _converted(model: onnx.ModelProto, kept: set[str]) -> onnx.ModelProto:
    try:
        from onnxconverter_common import float16
    except ImportError:
        raise missing_extra("onnxconverter-common", "torch", "half") from None
    if not any(tensor.data_type == FLOAT for tensor in model.graph.initializer):
        raise OptimizerError("the model has no float32 weights", "start from the float32 model")
    _retarget_casts(model, kept)
    _detach_outputs(model)
    with quiet():
        try:
            return float16.convert_float_to_float16(
                model,
                keep_io_types=True,
                disable_shape_infer=True,
                node_block_list=sorted(kept),
                check_fp16_ready=False,  # would take the casts just changed for a converted model
            )
        except (AttributeError, ValueError) as error:  # how it fails on graphs that it does not understand
            raise OptimizerError(
                f"onnxconverter-common cannot convert the model to fp16: {' '.join(str(error).split())[:300]}",
                "leave this step out, or start from a simplified graph",
            ) from error


def _retarget_casts(model: onnx.ModelProto, kept: set[str]) -> None:
    """Casts to float32 inside the graph become casts to fp16: the converter retypes what they feed, not them."""
    for node in model.graph.node:
        if node.op_type == "Cast" and node.name not in kept:
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == FLOAT:
                    attribute.i = FLOAT16


def _detach_outputs(model: onnx.ModelProto) -> None:
    """An Identity before each output that is also read inside, or comes from a cast.

    The converter puts a cast to float32 in the output's place, and inner readers would get float32 from it.
    """
    import onnx

    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    cast = {name for node in graph.node if node.op_type == "Cast" for name in node.output}
    for output in graph.output:
        if output.type.tensor_type.elem_type != FLOAT or output.name not in read | cast:
            continue
        inner = f"{output.name}_before_output"
        for node in graph.node:
            node.input[:] = [inner if name == output.name else name for name in node.input]
            node.output[:] = [inner if name == output.name else name for name in node.output]
        graph.value_info.append(onnx.ValueInfoProto(name=inner, type=output.type))
        graph.node.append(onnx.helper.make_node("Identity", [inner], [output.name], name=f"{inner}_identity"))
