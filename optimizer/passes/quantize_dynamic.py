"""quantize.dynamic: weights to 8 bits, activations when they arrive; needs no data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from optimizer import selectors
from optimizer.errors import OptimizerError, unknown
from optimizer.formats import caution, finite, nodes, onnx_ready
from optimizer.formats import onnx as onnx_format
from optimizer.formats.quiet import quiet
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme, quantized_before
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

VERSION = 1
CONSUMES = ("onnx",)
PRODUCES = "onnx"
TOOLS = ("onnx", "onnxruntime")
DATA: tuple[str, ...] = ()
SCHEMED = True
LIMIT = None
# Conv is not among them: ONNX Runtime has no ConvInteger with signed weights, and the unsigned one is slow.
OPS = ("MatMul", "Gemm", "Attention", "LSTM", "Gather")
INTEGER_OPS = ("MatMulInteger", "QAttention", "DynamicQuantizeLSTM")


class Options(Strict):
    """What is quantized. None leaves a choice to the target's scheme."""

    per_channel: bool | None = Field(None, description="one scale per output channel of a weight")
    keep: list[str] = Field([], description="left in float: node names with * and ?, /regular expressions/, op:Type")
    ops: list[str] | None = Field(None, description=f"quantize only these ONNX operator types, of {', '.join(OPS)}")


def refuse(options: Options, scheme: QuantScheme) -> str | None:  # noqa: ARG001  # the planner's signature
    """Why this step cannot be done for a target, or None."""
    if not scheme.dynamic:
        return f"{scheme.target} has no kernels for dynamically quantized products; use quantize.static"
    return None


def refuse_after(before: Sequence[str], scheme: QuantScheme) -> str | None:  # noqa: ARG001  # the planner's signature
    """Why this step cannot follow the steps `before` it, or None."""
    return quantized_before(before)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the model with integer weights; activations are quantized by the runtime, per tensor, as uint8."""
    scheme = ctx.wanted("quantize.dynamic")
    model = onnx_ready.prepared(source)
    present = {node.op_type for node in model.graph.node}
    ops = _ops(present, options)
    kept = selectors.select(options.keep, nodes.onnx_nodes(model), "quantize.dynamic: keep")
    finite.check(model, lambda node: node.op_type in ops and node.name not in kept)
    result = _quantized(model, ops, kept, scheme.by_channel(options.per_channel), scheme)
    counts = quantized(result)
    if not counts:
        raise OptimizerError(
            f"nothing is left to quantize: of {', '.join(options.ops or OPS)} the model holds none with a constant "
            f"weight that is not kept in float; it has {', '.join(sorted(present))}",
            "loosen keep; a convolutional network needs quantize.static",
        )
    caution.little(result, ctx.warn)
    onnx_format.save(result, out)
    ctx.note("quantized", dict(counts))
    ctx.note("kept", sorted(kept))


def _ops(present: set[str], options: Options) -> tuple[str, ...]:
    for op in options.ops or ():
        if op not in OPS:
            raise unknown("operator type", op, OPS, "quantize.dynamic: ops")
    return tuple(op for op in options.ops or OPS if op in present)


def _quantized(
    model: onnx.ModelProto, ops: tuple[str, ...], kept: set[str], per_channel: bool, scheme: QuantScheme
) -> onnx.ModelProto:
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    kinds = {"uint8": ort.QuantType.QUInt8, "int8": ort.QuantType.QInt8}
    # The quantizer first splits each Gemm into a MatMul and an Add.
    split = {*ops, "MatMul"} if "Gemm" in ops else set(ops)
    left = {n.name for n in model.graph.node if n.op_type not in ops} | kept
    with quiet():
        quantizer = ONNXQuantizer(
            model,
            per_channel=per_channel,
            reduce_range=False,
            mode=ort.QuantizationMode.IntegerOps,
            static=False,
            weight_qType=kinds[scheme.weight],
            activation_qType=ort.QuantType.QUInt8,  # the only type that dynamic kernels take
            tensors_range=None,
            nodes_to_quantize=[],
            nodes_to_exclude=sorted({*left, *(f"{name}_MatMul" for name in left)}),
            op_types_to_quantize=sorted(split),
            extra_options={"MatMulConstBOnly": True, "WeightSymmetric": True},
        )
        quantizer.quantize_model()
    onnx_ready.unmark(quantizer.model.model)
    return quantizer.model.model


def quantized(model: onnx.ModelProto) -> Counter[str]:
    """How many integer nodes of each type there are; a lookup counts when its table is dequantized."""
    found = Counter(node.op_type for node in model.graph.node if node.op_type in INTEGER_OPS)
    read = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.input[:1]}
    found.update(n.op_type for n in model.graph.node if n.op_type == "Gather" and n.output[0] in read)
    return found
