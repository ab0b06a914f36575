"""openvino: ONNX -> OpenVINO IR, run by its CPU plugin in the precision that is asked for, and told if another runs."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from optimizer import formats, machine
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.protocols import Context, Feeds, Session
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    import openvino

VERSION = 1
CONSUMES = ("onnx", "openvino")
PRODUCES = "openvino"
TOOLS = ("openvino",)
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 1e-4  # float32 on another runtime: sums in another order, nothing else
QUANTIZED_LIMIT = 0.5  # 8-bit kernels of two runtimes round apart by single steps, which add up from layer to layer
COMPILE: tuple[str, ...] = ()
SEARCH = ({"static_shapes": 8}, {"precision": "bf16"}, {"precision": "f16"})
SCHEME = QuantScheme(
    target="openvino",
    format="openvino",
    activation="uint8",
    activation_symmetric=True,
    per_channel=True,
    quantize_bias=False,
    weight_only=(4, 8),
    half=("fp16", "bf16"),
)
# What a step that works on ONNX alone writes pairs around: the CPU plugin takes them up as it takes its own
# FakeQuantize, zero points included.
QDQ = QuantScheme(
    target="openvino",
    format="onnx",
    quantize_bias=False,
    ops=(
        "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "MaxPool", "AveragePool",
        "GlobalAveragePool", "Concat", "Split", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze",
    ),
    constant_weights_only=("MatMul", "Gemm"),
    float_outputs=("MatMul", "Gemm"),
)  # fmt: skip
COUNTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq")
INTEGERS = {"i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4"}


class Options(Strict):
    """How the model is run."""

    threads: int | None = Field(None, ge=1, description="threads that one inference may use; default: as measured")
    precision: Literal["artifact", "f32", "bf16", "f16"] = Field(
        "artifact", description="type of what is not quantized; artifact: as the half step chose it, else f32"
    )
    performance: Literal["latency", "throughput"] = Field("latency", description="OpenVINO's performance hint")
    streams: int | None = Field(None, ge=1, description="inferences that may run side by side; default: by the hint")
    static_shapes: int = Field(
        0,
        ge=0,
        description="so many input shapes get a model compiled for them alone when they first come: faster, but that "
        "first call compiles and each takes memory; further shapes run in the one for all",
    )


def side_by_side(options: Options, callers: int) -> Options:
    """One stream per caller, unless the recipe says how many: callers of the same stream wait for each other."""
    if options.streams is not None or callers == 1:
        return options
    return options.model_copy(update={"streams": callers, "performance": "throughput"})


def probe() -> str | None:
    """None when OpenVINO is installed, else how to get it."""
    if machine.version_of("openvino") is None:
        return "OpenVINO is not installed; pip install 'optc[openvino]'"
    return None


def limit(source: Artifact) -> float | None:
    """The tolerance of lowering: a graph with Q/DQ pairs runs in other 8-bit kernels than ONNX Runtime's."""
    return QUANTIZED_LIMIT if source.format == "onnx" and onnx_format.quantized(source.path) else LIMIT


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:  # noqa: ARG001  # the protocol's signature
    """Convert ONNX to IR with the signature's names and full-precision weights; IR is handed on as it is."""
    if source.format == "openvino":
        formats.hand_on("openvino", source.path, out)
        return
    openvino_format.save(convert(source), out)


def convert(source: Artifact) -> openvino.Model:
    """The ONNX artifact as an OpenVINO model with the same named inputs and outputs."""
    ov = openvino_format.library()
    try:
        model = ov.convert_model(str(source.path / onnx_format.FILE))
    except (RuntimeError, ov.frontend.OpConversionFailure) as error:
        raise OptimizerError(
            f"OpenVINO {ov.__version__} cannot convert the model: {openvino_format.reason(error)}",
            "an operator may be missing there; the other targets are not affected",
        ) from None
    openvino_format.name_inputs(model, tuple(spec.name for spec in _inputs(source, model)))
    openvino_format.name_outputs(model, tuple(spec.name for spec in source.signature.outputs))
    return model


def _inputs(source: Artifact, model: Any) -> list[Any]:
    """The signature's inputs in the model's order."""
    specs = {spec.name: spec for spec in source.signature.inputs}
    found = [next((specs[n] for n in port.get_names() if n in specs), None) for port in model.inputs]
    if None in found or len(found) != len(specs):
        raise OptimizerError(
            f"OpenVINO dropped an input: it has {len(found)} of {', '.join(specs)}",
            "an input that no output depends on has to be left out of the model",
        )
    return found


@contextlib.contextmanager
def open(artifact: Artifact, options: Options) -> Iterator[Session]:  # the protocol's name
    """A session on the model, compiled for this CPU."""
    model, config = openvino_format.load(artifact.path), configuration(artifact.path, options)
    try:
        compiled = openvino_format.compiled(model, config)
    except RuntimeError as error:
        raise OptimizerError(
            f"OpenVINO cannot compile {artifact.path}: {openvino_format.reason(error)}", "see optc doctor"
        ) from None
    del model
    yield _Compiled(_Shapes(artifact.path, compiled, config, options.static_shapes), artifact)


def configuration(path: Path, options: Options) -> dict[str, Any]:
    """What OpenVINO is told with these options, in its own words."""
    wanted = openvino_format.precision(path) if options.precision == "artifact" else options.precision
    # Without a hint OpenVINO computes in bfloat16 on CPUs that have it, and says nothing.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": options.performance.upper()}
    if options.threads:
        # OpenVINO counts the threads of all streams together, and opens no more streams than threads, without a word.
        config["INFERENCE_NUM_THREADS"] = options.threads * (options.streams or 1)
    if options.streams:
        config["NUM_STREAMS"] = options.streams
    return config


def narrowed(path: Path, feeds: Feeds) -> openvino.Model | None:
    """The model for the shapes of these inputs alone; None where it has no input of that name or shape."""
    model = openvino_format.load(path)
    try:
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
    except RuntimeError:
        return None
    return model


class _Shapes:
    """The compiled model for all shapes, and up to `most` for a single one each; callers share them."""

    def __init__(self, path: Path, common: openvino.CompiledModel, config: dict[str, Any], most: int) -> None:
        self.common = common
        self._path, self._config, self._most = path, config, most
        self._own: dict[tuple[Any, ...], openvino.CompiledModel] = {}
        self._lock = threading.Lock()

    def of(self, feeds: Feeds) -> openvino.CompiledModel:
        """The model for inputs of these shapes, compiled now when it is the first time."""
        if not self._most:
            return self.common
        key = tuple(sorted((name, array.shape) for name, array in feeds.items()))
        with self._lock:
            if key not in self._own and len(self._own) < self._most:
                self._own[key] = self._compile(feeds)
            return self._own.get(key, self.common)

    def _compile(self, feeds: Feeds) -> openvino.CompiledModel:
        model = narrowed(self._path, feeds)
        if model is None:
            return self.common  # which says what it does not take when it is asked
        try:
            return openvino_format.compiled(model, self._config)
        except RuntimeError:  # it cannot be compiled for these shapes alone
            return self.common


class _Compiled:
    """A compiled model with inference requests of its own per caller."""

    def __init__(self, shapes: _Shapes, artifact: Artifact) -> None:
        self.signature = artifact.signature
        self._artifact = artifact
        self._shapes = shapes
        self._compiled = shapes.common
        self._requests: dict[int, openvino.InferRequest] = {}
        self._names = [openvino_format.output_name(port) for port in shapes.common.outputs]

    @property
    def precision(self) -> str:
        """The types that the layers of the compiled model that ran last really have."""
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        layers = Counter(kind for kind in map(_layer, self._compiled.get_runtime_model().get_ops()) if kind)
        return describe(layers, hint)

    def fork(self) -> Session:
        """Another request of the same compiled model."""
        # The binding sets up its view of numpy at the first array, under a guard that it holds while it waits for
        # Python's lock: first arrays of two threads at once block each other for ever (openvino 2026.4, pybind11).
        openvino_format.library().Tensor(np.zeros(1, np.float32))
        return _Compiled(self._shapes, self._artifact)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        try:
            # Inputs are read in place, outputs are copied: the next call must not overwrite them.
            found = self._request(feeds).infer(dict(feeds), share_inputs=True)
        except (RuntimeError, ValueError, TypeError) as error:
            given = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in feeds.items())
            raise OptimizerError(
                f"OpenVINO refuses the inputs {given}: {str(error).strip().splitlines()[-1]}",
                f"the model takes {', '.join(f'{s.name}: {s}' for s in self.signature.inputs)}",
            ) from None
        return {name: found[i] for i, name in enumerate(self._names)}

    def _request(self, feeds: Feeds) -> openvino.InferRequest:
        self._compiled = self._shapes.of(feeds)
        if id(self._compiled) not in self._requests:
            self._requests[id(self._compiled)] = self._compiled.create_infer_request()
        return self._requests[id(self._compiled)]


def _layer(node: Any) -> str | None:
    """The type in which a convolution or matrix product runs; None for everything else.

    The runtime names the type of the weights where these are integers; `u4 weights` where the other factor is none.
    """
    info = node.get_rt_info()
    if info["layerType"].astype(str) not in COUNTED:
        return None
    kind = str(info["runtimePrecision"].astype(str))
    source = node.input(0).get_source_output().get_node().get_rt_info()
    given = str(source["outputPrecisions"].astype(str)).partition(",")[0]
    return f"{kind} weights" if kind in INTEGERS and given not in INTEGERS else kind


def describe(layers: Counter[str], hint: str) -> str:
    """What runs in words, such as `int8 (21 of 22 convolutions and matrix products), float32 elsewhere`.

    `layers`: OpenVINO's short type names of those layers, with `weights` after them where only these are integers;
    `hint`: of everything else.
    """
    rest = openvino_format.TYPES.get(hint, hint)
    of = f"of {sum(layers.values())} convolutions and matrix products"
    integers: Counter[str] = Counter()
    for name, count in layers.items():
        kind, _, alone = name.partition(" ")
        if kind in INTEGERS:
            integers[f"{INTEGERS[kind]} {alone}".strip()] += count
    if integers:
        first, *others = integers.most_common()
        parts = [f"{first[0]} ({first[1]} {of})", *(f"{kind} ({number})" for kind, number in others)]
        return f"{', '.join(parts)}, {rest} elsewhere"
    most = layers.most_common(1)[0] if layers else (hint, 0)
    name = openvino_format.TYPES.get(most[0], most[0])
    return name if most[1] == sum(layers.values()) else f"{name} ({most[1]} {of})"
