"""half: 16-bit floats, stored or computed, as far as the target has them and the values fit.

For ONNX see `onnx.py`, for OpenVINO `openvino.py` beside this file; `guard.py` decides what stays in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optimizer.passes.half.options import SEEN_ON, Options
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme, paired_by
from optimizer.values import Artifact

VERSION = 4
CONSUMES = ("onnx", "openvino")
PRODUCES = None
TOOLS = ("onnx", "onnxconverter-common", "onnxruntime")
DATA: tuple[str, ...] = ()
SCHEMED = True
LIMIT = None
SEARCH: tuple[dict[str, object], ...] = ({"guard": True}, {"dtype": "bf16"})  # never without the guard


def scheme_tools(scheme: QuantScheme) -> tuple[str, ...]:
    """The distributions that decide the result for a target."""
    return ("openvino",) if scheme.format == "openvino" else TOOLS


def welcome(options: Options) -> tuple[str, ...]:
    """The data roles that the guard looks at, the best first."""
    return SEEN_ON if options.guard else ()


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    if options.dtype not in scheme.half:
        return f"{scheme.target} does not run {options.dtype}; available: {', '.join(scheme.half) or 'none'}"
    if scheme.format == "openvino" and options.keep:
        return "for openvino the plugin decides which operations run in 16 bits; keep is an option for onnxruntime"
    return None


def refuse_after(before: Sequence[str], scheme: QuantScheme) -> str | None:
    """Why this step cannot follow the steps `before` it for a target, or None."""
    pairs = paired_by(before)
    if pairs is None or scheme.format != "onnx" or scheme.mixed:
        return None
    return (
        f"{scheme.target} has no kernels for {pairs}'s Q/DQ pairs among 16-bit floats; leave one of the two steps out"
    )


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the model in 16 bits; inputs and outputs keep their types."""
    from optimizer.passes.half import onnx, openvino  # planning needs neither, nor numpy

    backend = openvino if source.format == "openvino" else onnx
    backend.convert(source, options, ctx, out)
