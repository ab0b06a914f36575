"""float16 constants in OpenVINO IR as far as they fit, and the type that the runtime is asked to compute in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import openvino as openvino_format
from optimizer.formats import taps
from optimizer.formats.nodes import PLUMBING
from optimizer.passes.half import masks, numbers
from optimizer.passes.half.options import Options
from optimizer.passes.half.record import listed, record
from optimizer.passes.half.samples import Samples, samples
from optimizer.protocols import Context
from optimizer.values import Artifact

if TYPE_CHECKING:
    import openvino

CAPABILITY = {"fp16": "FP16", "bf16": "BF16"}  # in OpenVINO's words
FLOAT = "f32"


def convert(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Store weights in float16 where that is the type, and ask the runtime to compute in it."""
    model = openvino_format.load(source.path)
    if options.dtype == "bf16":
        _able("bf16", ctx)
        openvino_format.save(model, out, precision="bf16")
        return
    if not any(_is_weight(op) for op in model.get_ops()):
        raise OptimizerError("the model has no float32 weights", "start from the float32 model")
    if not options.guard:
        _able("fp16", ctx)
        openvino_format.save(model, out, half=True, precision="f16")
        return
    bad = _unfit(model)
    given = samples(source, options, ctx)
    beyond = _beyond(source.path, given, numbers.LARGEST / options.margin)
    record(ctx, bad, given, options, sum(map(_is_weight, model.get_ops())), "weights")
    ctx.note("beyond", beyond)
    _able("bf16" if beyond else "fp16", ctx)
    if beyond:
        ctx.warn(
            f"OpenVINO is asked to compute in bf16, which reaches as far as float32: values leave float16 in "
            f"{len(beyond)} operations, such as {listed(beyond)}"
        )
    _save(model, bad, out, "bf16" if beyond else "f16")


def _able(dtype: str, ctx: Context) -> None:
    able = openvino_format.library().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if CAPABILITY[dtype] not in able:
        ctx.warn(f"this CPU has no {dtype} arithmetic: OpenVINO will compute in another type here")


def _is_weight(op: Any) -> bool:
    return bool(op.get_type_name() == "Constant" and op.get_element_type().get_type_name() == FLOAT)


def _unfit(model: openvino.Model) -> dict[str, str]:
    """Constants that float16 cannot hold -> why. Those in front of a softmax may be masks, which OpenVINO clamps."""
    masked = _masked(model)
    found = {}
    for op in filter(_is_weight, model.get_ordered_ops()):
        values = np.asarray(op.data)
        reason = numbers.fault(masks.judged(values) if _value(op.output(0)) in masked else values)
        if reason:
            found[op.get_friendly_name()] = reason
    return found


def _save(model: openvino.Model, bad: Mapping[str, str], out: Path, precision: openvino_format.Precision) -> None:
    """Write the model with its constants in float16, but for those in `bad`.

    OpenVINO clamps what is beyond float16 without a word and has no way to leave a constant out, so the original is
    put back into the result.
    """
    if not bad:
        openvino_format.save(model, out, half=True, precision=precision)
        return
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        openvino_format.save(model, Path(folder), half=True)
        result = openvino_format.load(Path(folder))
        originals = {op.get_friendly_name(): op for op in filter(_is_weight, model.get_ops())}
        for op in [op for op in result.get_ops() if op.get_type_name() == "Convert"]:
            if op.get_friendly_name() in bad:
                constant = openvino_format.library().opset13.constant(
                    np.asarray(originals[op.get_friendly_name()].data)
                )
                constant.set_friendly_name(op.get_friendly_name())
                op.output(0).replace(constant.output(0))
        openvino_format.save(result, out, precision=precision)


def _beyond(path: Path, given: Samples, limit: float) -> dict[str, str]:
    """Operations that give values beyond `limit` on the samples -> how far they reach."""
    model = openvino_format.load(path)
    masked = _masked(model)
    names, results = [], []
    opset = openvino_format.library().opset13
    for op in model.get_ordered_ops():
        if op.get_type_name() in PLUMBING and op.get_type_name() != "Parameter":
            continue
        for port in op.outputs():
            if port.get_element_type().get_type_name() != FLOAT or port.get_partial_shape().rank.is_dynamic:
                continue
            value: Any = port
            if _value(port) in masked:
                value = opset.select(opset.less(port, np.float32(masks.LOW)), np.float32(0), port)
            axes = np.arange(port.get_partial_shape().rank.get_length())
            results.append(opset.result(opset.reduce_max(opset.abs(value), axes, keep_dims=False)))
            names.append(op.get_friendly_name())
    first = len(model.outputs)
    model.add_results(results)
    request = openvino_format.compiled(model, {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    tops = np.zeros(len(names))
    done = 0
    for feeds in given.look():
        found = request.infer(dict(feeds), share_inputs=True)
        tops = np.maximum(tops, [float(found[first + place]) for place in range(len(names))])
        done += taps.rows(feeds)
        given.progress(done)
    return {name: f"reaches {top:.3g}" for name, top in zip(names, tops, strict=True) if not top <= limit}


def _masked(model: openvino.Model) -> set[str]:
    operations = [
        masks.Operation(
            op.get_type_name(),
            [_value(port.get_source_output()) for port in op.inputs()],
            [_value(port) for port in op.outputs()],
        )
        for op in model.get_ordered_ops()
        if op.get_type_name() not in PLUMBING
    ]
    results = (op for op in model.get_ops() if op.get_type_name() == "Result")
    return masks.behind(operations, (_value(op.input(0).get_source_output()) for op in results))


def _value(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"
