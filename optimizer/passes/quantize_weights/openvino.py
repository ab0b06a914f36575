"""Weight-only quantization of OpenVINO IR by NNCF: constants that the CPU plugin unpacks inside its products."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import caution, nodes
from optimizer.formats import nncf as nncf_library
from optimizer.formats import openvino as openvino_format
from optimizer.formats.calibration import Calibration, Stream
from optimizer.formats.quiet import quiet
from optimizer.formats.signals import own_signal_stack
from optimizer.passes.quantize_weights.options import CALIBRATED, Options
from optimizer.passes.quantize_weights.record import Row, record
from optimizer.protocols import Context
from optimizer.values import Artifact

if TYPE_CHECKING:
    import openvino

GROUP = 32
GROUPS = (GROUP, 16)  # what is tried where the recipe names none, before whole rows
FAKE = "FakeQuantize"
PRODUCT, LOOKUP = "MatMul", "Gather"
INTEGERS = ("u4", "i4", "u8", "i8")
PASSED = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose")  # between a compressed constant and its product


def quantize(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the IR with compressed weights into `out`."""
    openvino_format.library()  # before NNCF: it turns telemetry off
    model = openvino_format.load(source.path)
    if any(op.get_type_name() == FAKE for op in model.get_ops()):
        raise OptimizerError("the model is quantized already", "start from the float model")
    every = nodes.openvino_nodes(model)
    kept = selectors.select(options.keep, every, "quantize.weights: keep")
    taken = {PRODUCT, LOOKUP} if options.embeddings else {PRODUCT}
    left = sorted(kept | {node.name for node in every if node.ops[0] not in taken} | _infinite(model, taken, ctx))
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    whole = sum(op.get_byte_size() for op in constants if op.get_element_type().get_type_name() == "f32")
    before = {row.name for row in _rows(model, taken)}
    group, odd = _grouping(model, set(left), options, ctx)
    left = sorted({*left, *odd})
    _untie(model, set(left))
    stream = None
    if options.algorithm in CALIBRATED:
        data = Calibration(ctx.data["calibrate"], source.signature, options.samples)
        caution.few(data, ctx.warn)
        stream = Stream(data, ctx.progress)
    result = _compressed(model, options, group, left, stream)
    if options.algorithm == "awq":
        _record_awq(source, result, options, group, left, ctx)
    rows = [row for row in _rows(result, taken) if row.name not in before]
    if not rows:
        raise OptimizerError(
            f"no weights are left to quantize: the model has no {' or '.join(sorted(taken))} with a constant float "
            f"weight that is not kept",
            "loosen keep; embeddings: true takes tables, too; a convolutional network needs quantize.static",
        )
    openvino_format.save(result, out, precision=openvino_format.precision(source.path))
    ctx.note("kept", sorted(kept))
    record(ctx, rows, options, group, whole)


def _infinite(model: openvino.Model, taken: set[str], ctx: Context) -> set[str]:
    """Operations whose weights hold NaN or infinity, which NNCF compresses without a word."""
    found = [
        op.get_friendly_name()
        for op in model.get_ordered_ops()
        if op.get_type_name() in taken
        for constant in (port.get_source_output().get_node() for port in op.inputs())
        if constant.get_type_name() == "Constant"
        and constant.get_element_type().is_real()
        and not np.isfinite(constant.data).all()
    ]
    if found:
        ctx.warn(f"left in float because their weights are not finite: {', '.join(found[:8])}")
    return set(found)


def _untie(model: openvino.Model, left: set[str]) -> None:
    """Give operations that stay in float a copy of a constant that they share with one that does not.

    NNCF compresses constants: a table that is also the head's weight would be compressed with it.
    """
    opset = openvino_format.library().opset13
    for constant in [op for op in model.get_ops() if op.get_type_name() == "Constant" and len(op.shape) > 1]:
        readers = list(constant.output(0).get_target_inputs())
        floats = [port for port in readers if port.get_node().get_friendly_name() in left]
        if floats and len(floats) < len(readers):
            copy = opset.constant(constant.data)
            copy.set_friendly_name(f"{constant.get_friendly_name()}/float")
            for port in floats:
                port.replace_source_output(copy.output(0))


def _compressed(
    model: openvino.Model, options: Options, group: int | str, left: list[str], stream: Stream | None
) -> openvino.Model:
    """NNCF's weight compression, as the options have it."""
    with quiet(), own_signal_stack(), nncf_library.silent("quantize.weights for openvino") as nncf:
        kind = "SYM" if options.symmetric else "ASYM"
        settings: dict[str, Any] = {}
        if options.bits == 4:  # it has no choice for 8 bits
            settings = {"group_size": -1 if group == "channel" else group, "ratio": 1.0, "all_layers": True}
        if stream is not None:
            settings |= {"dataset": nncf.Dataset(stream), "subset_size": len(stream.data), options.algorithm: True}
        try:
            return nncf.compress_weights(
                model,
                mode=nncf.CompressWeightsMode[f"INT{options.bits}_{kind}"],
                ignored_scope=nncf.IgnoredScope(names=left, validate=False),
                **settings,
            )
        except (nncf.ValidationError, nncf.ParameterNotSupportedError, nncf.InternalError, RuntimeError) as error:
            raise OptimizerError(
                f"NNCF {nncf.__version__} cannot compress the weights: {' '.join(str(error).split())[:400]}",
                "leave the offending layers in float with keep, or check the calibration data with optc inspect",
            ) from error


def _record_awq(
    source: Artifact, result: openvino.Model, options: Options, group: int | str, left: list[str], ctx: Context
) -> None:
    """Note how many constants of integers awq has decided; warn where that is none.

    NNCF scales the input of a product only behind an activation or a multiplication, and says nothing where it finds
    none; so the result is compared with rounding to nearest.
    """
    plain = openvino_format.load(source.path)
    _untie(plain, set(left))
    before = _integers(_compressed(plain, options.model_copy(update={"algorithm": "rtn"}), group, left, None))
    after = _integers(result)
    changed = sum(codes != before.get(name) for name, codes in after.items())
    ctx.note("awq", {"constants": len(after), "changed": changed})
    if not changed:
        ctx.warn(
            "awq changed nothing, the result is that of rtn: NNCF applies it to products behind an activation or a "
            "multiplication, as in gated layers, and found none; gptq works on all"
        )


def _integers(model: openvino.Model) -> dict[str, bytes]:
    """Constants of integers, zero points among them: name -> what they hold."""
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    return {
        op.get_friendly_name(): op.data.tobytes()
        for op in constants
        if op.get_element_type().get_type_name() in INTEGERS
    }


def _grouping(model: openvino.Model, left: set[str], options: Options, ctx: Context) -> tuple[int | str, set[str]]:
    """Weights of a row that share a scale, and the layers whose rows these do not divide: NNCF fills no group up.

    A group that the recipe names must divide all; else the first that divides a layer is taken, and the layers that it
    does not divide stay in float, with a warning; whole rows, where no group divides any.
    """
    widths = {op.get_friendly_name(): _width(op) for op in model.get_ordered_ops()}
    rows = {name: width for name, width in widths.items() if width and name not in left}
    if options.bits == 8 or options.group == "channel":  # NNCF has no choice for 8 bits
        return "channel", set()
    for group in [int(options.group)] if options.group else GROUPS:
        odd = {name: width for name, width in rows.items() if width % group}
        told = ", ".join(f"{name} ({width})" for name, width in [*odd.items()][:8])
        if odd and options.group:
            raise OptimizerError(
                f"groups of {group} do not divide the rows of {told}",
                "choose a group that does, or group: channel, or leave those layers in float with keep",
            )
        if len(odd) < len(rows) or not rows:
            if odd:
                ctx.warn(f"left in float, as groups of {group} do not divide their rows: {told}; group sets another")
            return group, set(odd)
    return "channel", set()


def _width(op: Any) -> int | None:
    """How many weights each output of a product, or each entry of a table, has; None where they are not constant."""
    kind = op.get_type_name()
    place = {PRODUCT: 1, LOOKUP: 0}.get(kind)
    if place is None:
        return None
    node = op.input(place).get_source_output().get_node()
    if node.get_type_name() != "Constant" or len(node.shape) != 2:
        return None
    across = kind == PRODUCT and not op.get_attributes()["transpose_b"]
    return int(node.shape[0 if across else 1])


def _rows(model: openvino.Model, taken: set[str]) -> list[Row]:
    return [row for op in model.get_ordered_ops() if op.get_type_name() in taken for row in _row(op)]


def _row(op: Any) -> list[Row]:
    """What became of the weights of an operation; nothing where they are not integers."""
    for port in op.inputs():
        constants = _constants(port.get_source_output().get_node())
        if any(constant.get_element_type().get_type_name() in INTEGERS for constant in constants):
            shape = tuple(int(size) for size in port.get_shape())
            across = op.get_type_name() == PRODUCT and not op.get_attributes()["transpose_b"]
            turned = (*shape[:-2], shape[-1], shape[-2]) if across else shape
            after = sum(constant.get_byte_size() for constant in constants)
            return [Row(op.get_friendly_name(), op.get_type_name(), turned, 4 * math.prod(shape), after)]
    return []


def _constants(node: Any) -> list[Any]:
    """The constants that a value is unpacked from: codes, zero points, scales."""
    kind = node.get_type_name()
    if kind == "Constant":
        return [node]
    if kind not in PASSED:
        return []
    sides = node.inputs() if kind in ("Subtract", "Multiply") else node.inputs()[:1]
    return [found for port in sides for found in _constants(port.get_source_output().get_node())]
