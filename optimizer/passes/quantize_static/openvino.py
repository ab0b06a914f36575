"""Static quantization of OpenVINO IR by NNCF: fake-quantize nodes that the CPU plugin fuses, biases corrected."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import selectors
from optimizer.errors import OptimizerError, unknown
from optimizer.formats import caution, finite, nodes
from optimizer.formats import nncf as nncf_library
from optimizer.formats import openvino as openvino_format
from optimizer.formats.calibration import Calibration, Stream
from optimizer.formats.quiet import quiet
from optimizer.formats.signals import own_signal_stack
from optimizer.passes.quantize_static import attention
from optimizer.passes.quantize_static.options import Options
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    import openvino

FAKE = "FakeQuantize"
MOVING = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "StridedSlice", "Pad", "MaxPool")


def quantize(source: Artifact, options: Options, ctx: Context, scheme: QuantScheme, out: Path) -> None:
    """Write the quantized IR into `out`."""
    openvino_format.library()  # before NNCF: it turns telemetry off
    model = openvino_format.load(source.path)
    if any(op.get_type_name() == FAKE for op in model.get_ops()):
        raise OptimizerError("the model is quantized already", "start from the float model")
    every = nodes.openvino_nodes(model)
    kept = selectors.select(options.keep, every, "quantize.static: keep")
    left = kept | _others(options, every)
    transformer = _is_transformer(model, options)
    if options.smooth and not transformer:
        ctx.warn("smooth has no effect: NNCF smooths transformers only, and this model is none")
    data = Calibration(ctx.data["calibrate"], source.signature, options.samples)
    caution.few(data, ctx.warn)
    caution.constant(data, ctx.warn)
    _check_finite(model, left)
    result = _nncf(model, options, scheme, transformer, sorted(left), Stream(data, ctx.progress))
    counts = quantized(result)
    if not counts:
        raise OptimizerError(
            f"nothing is left to quantize: NNCF put no {FAKE} into the model",
            "loosen keep, or list more operator types in ops",
        )
    _restore_names(model, result)
    openvino_format.save(result, out, precision=openvino_format.precision(source.path))
    ctx.note("quantized", dict(counts))
    ctx.note("architecture", "transformer" if transformer else "cnn")
    ctx.note("kept", sorted(kept))
    ctx.note("calibration", {"method": options.method, "samples": len(data)})


def _check_finite(model: openvino.Model, left: set[str]) -> None:
    """Raise OptimizerError for an operation that may be quantized and reads a constant with NaN or infinity."""
    for op in model.get_ordered_ops():
        if op.get_friendly_name() in left or op.get_type_name() in nodes.PLUMBING:
            continue
        for port in op.inputs():
            maker = port.get_source_output().get_node()
            if maker.get_type_name() == "Constant" and maker.get_element_type().is_real():
                finite.refuse(maker.data, maker.get_friendly_name(), op.get_type_name(), op.get_friendly_name())


def _others(options: Options, every: list[selectors.Node]) -> set[str]:
    """With `ops`: all operations of other types."""
    if options.ops is None:
        return set()
    known = {kind for node in every for kind in node.ops}
    for op in options.ops:
        if op not in known:
            raise unknown("operator type", op, known, "quantize.static: ops")
    return {node.name for node in every if not set(options.ops) & set(node.ops)}


def _is_transformer(model: openvino.Model, options: Options) -> bool:
    if options.model != "auto":
        return options.model == "transformer"
    return attention.attends(
        attention.Operation(
            op.get_type_name(),
            [_value(port.get_source_output()) for port in op.inputs()],
            [_value(port) for port in op.outputs()],
        )
        for op in model.get_ops()
        if op.get_type_name() not in nodes.PLUMBING
    )


def _value(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


def _nncf(
    model: openvino.Model, options: Options, scheme: QuantScheme, transformer: bool, left: list[str], stream: Stream
) -> openvino.Model:
    """NNCF's post-training quantization, as the options and the scheme have it."""
    with quiet(), own_signal_stack(), nncf_library.silent("quantize.static for openvino") as nncf:
        symmetric = (
            nncf.QuantizationPreset.PERFORMANCE if scheme.activation_symmetric else nncf.QuantizationPreset.MIXED
        )
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(stream),
                preset=nncf.QuantizationPreset.MIXED if transformer else symmetric,
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(stream.data),
                model_type=nncf.ModelType.TRANSFORMER if transformer else None,
                ignored_scope=nncf.IgnoredScope(names=left, validate=False),
                advanced_parameters=_parameters(options, scheme),
            )
        except (nncf.ValidationError, nncf.ParameterNotSupportedError, nncf.InternalError, RuntimeError) as error:
            raise OptimizerError(
                f"NNCF {nncf.__version__} cannot quantize the model: {' '.join(str(error).split())[:400]}",
                "leave the offending nodes in float with keep, or check the calibration data with optc inspect",
            ) from error


def _parameters(options: Options, scheme: QuantScheme) -> Any:
    """The range estimator of the method; one scale per channel or per weight."""
    import nncf
    from nncf.quantization import advanced_parameters as advanced
    from nncf.quantization import range_estimator as estimator

    found = nncf.AdvancedQuantizationParameters()
    found.disable_bias_correction = options.bias_correction is False
    if options.smooth is not None:
        found.smooth_quant_alphas = _smoothing(options.smooth)
    if options.method in ("entropy", "mse"):  # NNCF's search on a histogram looks for the least squared error
        found.activations_range_estimator_params = estimator.RangeEstimatorParametersSet.HISTOGRAM
    elif options.method == "moving-average":  # every sample counts alike
        found.activations_range_estimator_params = estimator.RangeEstimatorParametersSet.MEAN_MINMAX
    elif options.method == "percentile":
        found.activations_range_estimator_params = _quantile(1 - options.percentile / 100)
    per_channel = options.by_channel(scheme)
    if not per_channel:
        found.weights_quantization_params = advanced.QuantizationParameters(per_channel=False)
    return found


def _smoothing(asked: bool | float) -> Any:
    """Alphas of SmoothQuant for matrix products: NNCF's own, the one asked for, or -1, which switches it off."""
    from nncf.quantization import advanced_parameters as advanced

    if asked is True:
        return advanced.AdvancedSmoothQuantParameters()
    return advanced.AdvancedSmoothQuantParameters(convolution=-1, matmul=asked or -1)


def _quantile(tail: float) -> Any:
    """The quantile that leaves `tail` outside at either end: of each sample, and of those the outermost."""
    from nncf.quantization import range_estimator as estimator

    low, high = (
        estimator.StatisticsCollectorParameters(
            statistics_type=estimator.StatisticsType.QUANTILE, aggregator_type=outermost, quantile_outlier_prob=tail
        )
        for outermost in (estimator.AggregatorType.MIN, estimator.AggregatorType.MAX)
    )
    return estimator.RangeEstimatorParameters(min=low, max=high)


def quantized(model: openvino.Model) -> Counter[str]:
    """How many operations of each type read a fake-quantized value, moved about or as it is."""
    computing = (op for op in model.get_ops() if op.get_type_name() not in (*MOVING, FAKE, *nodes.PLUMBING))
    return Counter(op.get_type_name() for op in computing if _origin(op) == FAKE)


def _origin(op: Any) -> str | None:
    """The type of the operation that computed the first input."""
    while op.get_input_size():
        op = op.input(0).get_source_output().get_node()
        if op.get_type_name() not in MOVING:
            return str(op.get_type_name())
    return None


def _restore_names(model: openvino.Model, result: openvino.Model) -> None:
    """Give the result the names of the model that it was made of."""
    wanted = openvino_format.signature(model)
    openvino_format.name_inputs(result, tuple(spec.name for spec in wanted.inputs))
    openvino_format.name_outputs(result, tuple(spec.name for spec in wanted.outputs))
