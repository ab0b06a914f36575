"""quantize.static: weights and activations to 8 bits, with ranges taken from real calibration data.

What exactly is quantized follows the target's scheme: see `onnx.py` and `openvino.py` beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from optimizer.errors import OptimizerError
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.values import Artifact, QuantScheme

VERSION = 1
CONSUMES = ("onnx", "openvino")
PRODUCES = None
TOOLS = ("onnx", "onnxruntime")
DATA = ("calibrate",)
SCHEMED = True
LIMIT = None


class Options(Strict):
    """What is quantized, and how ranges are found. None leaves a choice to the target's scheme."""

    method: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="minmax: all that was seen; entropy: clip where least information is lost; percentile"
    )
    percentile: float = Field(99.99, gt=50, le=100, description="with method percentile: share of values kept, in %")
    samples: int = Field(300, ge=1, description="calibration examples, or all when there are fewer")
    per_channel: bool | None = Field(None, description="one scale per output channel of a weight")
    keep: list[str] = Field([], description="left in float: node names with * and ?, /regular expressions/, op:Type")
    model: Literal["auto", "cnn", "transformer"] = Field(
        "auto", description="transformer: only products with weights are quantized, not what lies between them"
    )
    ops: list[str] | None = Field(None, description="quantize only these ONNX operator types")
    constant_weights_only: bool | None = Field(
        None, description="false: also products of two activations, such as attention scores"
    )


def scheme_tools(scheme: QuantScheme) -> tuple[str, ...]:
    """The distributions that decide the result for a target."""
    return ("openvino", "nncf") if scheme.format == "openvino" else TOOLS


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    if scheme.format not in CONSUMES:
        return f"quantize.static works on {' and '.join(CONSUMES)}, {scheme.target} runs {scheme.format}"
    if scheme.format == "openvino" and options.constant_weights_only is not None:
        return "constant_weights_only is an option for onnxruntime; for openvino use keep"
    return None


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the quantized model; its ranges come from `ctx.data["calibrate"]` and from nothing else."""
    if ctx.scheme is None:
        raise AssertionError("BUG: quantize.static was run without the target's scheme")
    if "calibrate" not in ctx.data:
        raise OptimizerError(
            "quantize.static needs calibration data, and there is none",
            "add data: {calibrate: <card/split or file>}; random data is never used instead",
        )
    if source.format == "openvino":
        from optimizer.passes.quantize_static.openvino import quantize
    else:
        from optimizer.passes.quantize_static.onnx import quantize
    quantize(source, options, ctx, ctx.scheme, out)
