"""quantize.weights: weights to 4 or 8 bits, a scale for each small group; activations stay float between layers.

ONNX Runtime gets `MatMulNBits` and `GatherBlockQuantized`, OpenVINO compressed constants: see `onnx.py` and
`openvino.py` beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.errors import OptimizerError
from optimizer.passes.quantize_weights.options import CALIBRATED, Options
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme, quantized_before
from optimizer.values import Artifact

VERSION = 1
CONSUMES = ("onnx", "openvino")
PRODUCES = None
TOOLS = ("onnx", "onnxruntime", "numpy")
DATA = ("calibrate",)
SCHEMED = True
LIMIT = None
LARGEST_BLOCK = 256  # of MatMulNBits: MLAS has kernels for blocks of 16 to 256 weights


def scheme_tools(scheme: QuantScheme) -> tuple[str, ...]:
    """The distributions that decide the result for a target."""
    return ("openvino", "nncf") if scheme.format == "openvino" else TOOLS


def data(options: Options) -> tuple[str, ...]:
    """The data roles that these options need: rtn and hqq look at nothing but the weights."""
    return DATA if options.algorithm in CALIBRATED else ()


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    if scheme.format not in CONSUMES:
        return f"quantize.weights works on {' and '.join(CONSUMES)}, {scheme.target} runs {scheme.format}"
    if options.bits not in scheme.weight_only:
        accepted = ", ".join(map(str, scheme.weight_only)) or "none"
        return f"{scheme.target} has no kernels for weights of {options.bits} bits alone; accepted: {accepted}"
    return _refuse_openvino(options) if scheme.format == "openvino" else _refuse_onnx(options, scheme.target)


def _refuse_onnx(options: Options, target: str) -> str | None:
    if options.group == "channel":
        return f"{target} has no kernel with one scale per channel; accepted: group 16, 32, 64, 128, {LARGEST_BLOCK}"
    if options.group and options.group > LARGEST_BLOCK:
        return f"{target} has no kernel for group {options.group}; accepted: 16, 32, 64, 128, {LARGEST_BLOCK}"
    return None


def _refuse_openvino(options: Options) -> str | None:
    if options.algorithm in ("hqq", "autoround"):
        return f"NNCF, which compresses weights for openvino, has no {options.algorithm}; accepted: rtn, gptq, awq"
    if options.accuracy_level is not None:
        return "accuracy_level is an option for onnxruntime; openvino decides by itself how it multiplies"
    if options.bits == 8 and options.algorithm != "rtn":
        return f"NNCF has no {options.algorithm} for weights of 8 bits; accepted: rtn, or bits: 4"
    if options.bits == 8 and options.group not in (None, "channel"):
        return f"NNCF has no groups for weights of 8 bits, group is {options.group}; accepted: channel, or bits: 4"
    return None


def refuse_after(before: Sequence[str], scheme: QuantScheme) -> str | None:  # noqa: ARG001  # the planner's signature
    """Why this step cannot follow the steps `before` it, or None."""
    return quantized_before(before)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the model with integer weights; gptq, awq and autoround decide them on `ctx.data["calibrate"]`."""
    if not set(data(options)) <= set(ctx.data):
        raise OptimizerError(
            f"quantize.weights with {options.algorithm} needs calibration data, and there is none",
            "add data: {calibrate: <card/split or file>}, or use rtn or hqq, which need none",
        )
    from optimizer.passes.quantize_weights import onnx, openvino  # planning needs neither, nor numpy

    backend = openvino if source.format == "openvino" else onnx
    backend.quantize(source, options, ctx, out)
