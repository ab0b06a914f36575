"""quantize.static: weights and activations to 8 bits, with ranges taken from real calibration data.

What exactly is quantized follows the target's scheme: see `onnx.py` and `openvino.py` beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.errors import OptimizerError
from optimizer.passes.quantize_static.options import Options
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme, quantized_before
from optimizer.values import Artifact

VERSION = 2
CONSUMES = ("onnx", "openvino")
PRODUCES = None
TOOLS = ("onnx", "onnxruntime")
DATA = ("calibrate",)
SCHEMED = True
LIMIT = None
# The preset, then what has helped most often comes first; switches that are not named here are tried after them.
SEARCH: tuple[dict[str, object], ...] = (
    {}, {"method": "mse"}, {"method": "percentile"}, {"bias_correction": True}, {"smooth": 0.5}, {"equalize": True},
    {"rounding": "adaround"}, {"method": "entropy"},
)  # fmt: skip


def scheme_tools(scheme: QuantScheme) -> tuple[str, ...]:
    """The distributions that decide the result for a target."""
    return ("openvino", "nncf") if scheme.format == "openvino" else TOOLS


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    if scheme.format not in CONSUMES:
        return f"quantize.static works on {' and '.join(CONSUMES)}, {scheme.target} runs {scheme.format}"
    if options.dtype not in scheme.static:
        accepted = (
            f"accepted: {', '.join(scheme.static)}" if scheme.static else "leave this step out, half makes it small"
        )
        return f"{scheme.target} has no kernels for static {options.dtype}; {accepted}"
    if options.dtype == "fp8" and (reason := _not_in_fp8(options)):
        return reason
    if scheme.format == "openvino" and options.constant_weights_only is not None:
        return "constant_weights_only is an option for onnxruntime; for openvino use keep"
    if scheme.format == "openvino":
        return _not_in_nncf(options)
    return None


def refuse_after(before: Sequence[str], scheme: QuantScheme) -> str | None:
    """Why this step cannot follow the steps `before` it for a target, or None."""
    if twice := quantized_before(before):
        return twice
    if "half" not in before or scheme.format != "onnx":
        return None
    mixed = "; put half behind it: [quantize.static, half]" if scheme.mixed else "; leave one of the two out"
    return f"ranges and grids are those of the float32 model, whose weights half has narrowed by then{mixed}"


def _not_in_fp8(options: Options) -> str | None:
    """What counts on steps of one size, which floats do not have."""
    if options.method in ("entropy", "mse"):
        accepted = "minmax, moving-average, percentile"
        return f"method: {options.method} weighs even steps, which fp8 has not; accepted: {accepted}"
    if options.rounding != "nearest":
        return f"rounding: {options.rounding} chooses between integers, which fp8 has not; accepted: nearest"
    if options.reduce_range:
        return "reduce_range keeps integer products from saturating, and fp8 has none; leave it out"
    return None


def _not_in_nncf(options: Options) -> str | None:
    """What NNCF does not have on OpenVINO IR, and what it has instead."""
    accepted = "smooth, bias_correction, every method of ranges, and rounding: nearest"
    if options.smooth_insert:
        return "smooth_insert is an option for onnxruntime; for openvino NNCF inserts multiplications by itself"
    if options.equalize:
        return f"equalize works on ONNX, and openvino is quantized on its IR by NNCF, which accepts {accepted}"
    if options.rounding != "nearest":
        return f"NNCF rounds to nearest, so openvino takes no rounding: {options.rounding}; it accepts {accepted}"
    return None


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the quantized model; its ranges come from `ctx.data["calibrate"]` and from nothing else."""
    scheme = ctx.wanted("quantize.static")
    reason = refuse(options, scheme)
    if reason:
        raise OptimizerError(reason, "change the option, or leave this step out for that target")
    if "calibrate" not in ctx.data:
        raise OptimizerError(
            "quantize.static needs calibration data, and there is none",
            "add data: {calibrate: <card/split or file>}; random data is never used instead",
        )
    from optimizer.passes.quantize_static import onnx, openvino  # planning needs neither, nor numpy

    backend = openvino if source.format == "openvino" else onnx
    backend.quantize(source, options, ctx, scheme, out)
