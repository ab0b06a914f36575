"""What is done to the float model before quantizers and Q/DQ nodes enter it, as the options have it.

Each algorithm changes weights and biases in place and leaves the graph as it is, so that none of them needs to know
how the quantized model is written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from optimizer.formats import finite
from optimizer.formats.calibration import Calibration
from optimizer.passes.quantize_static import bias, equalize, ranges, rounding, smooth, thresholds
from optimizer.passes.quantize_static.options import Options
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme

if TYPE_CHECKING:
    import onnx


def method(options: Options, scheme: QuantScheme) -> tuple[ranges.Clip | None, Callable[[], ranges.Ends]]:
    """How ranges are clipped, and how their ends are gathered."""
    clips: dict[str, ranges.Clip] = {
        "entropy": thresholds.entropy,
        "percentile": functools.partial(thresholds.percentile, share=options.percentile),
        "mse": functools.partial(thresholds.mse, symmetric=scheme.activation_symmetric),
    }
    average = options.method == "moving-average"
    return clips.get(options.method), ranges.MovingAverage if average else ranges.Extremes


def before(
    model: onnx.ModelProto,
    takes: Callable[[onnx.NodeProto], bool],
    data: Calibration,
    options: Options,
    ctx: Context,
) -> set[str]:
    """Before ranges are observed: weights trade their scale with other weights and with activations.

    The names of nodes that are new and stay in float.
    """
    finite.check(model, takes)
    if options.equalize:
        ctx.note("equalize", equalize.equalize(model, takes))
    if not options.smooth:
        return set()
    alpha = smooth.ALPHA if options.smooth is True else options.smooth
    found = smooth.smooth(model, takes, data, alpha, options.smooth_insert, ctx.progress)
    ctx.note("smooth", {"alpha": alpha, **found})
    return set(found["inserted"])


def after(
    model: onnx.ModelProto,
    takes: Callable[[onnx.NodeProto], bool],
    insert: Callable[[onnx.ModelProto], None],
    data: Calibration,
    options: Options,
    scheme: QuantScheme,
    ctx: Context,
) -> None:
    """Once ranges are known: weights go to their grids, then biases take up what is lost; `insert` quantizes a copy."""
    if options.rounding == "adaround":
        per_channel, reduced = options.by_channel(scheme), options.reduce_range
        ctx.note("adaround", rounding.adaround(model, takes, data, per_channel, ctx.seed, ctx.progress, reduced))
    if options.bias_correction:
        ctx.note("bias_correction", bias.correct(model, takes, insert, data, ctx.progress))
