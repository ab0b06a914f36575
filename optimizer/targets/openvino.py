"""openvino: ONNX -> OpenVINO IR, run by its CPU plugin in the precision that is asked for, and told if another runs."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from optimizer import disk, machine
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import openvino as openvino_format
from optimizer.protocols import Context, Feeds, Session
from optimizer.schema import Strict
from optimizer.values import Artifact, QuantScheme

if TYPE_CHECKING:
    import openvino

VERSION = 1
CONSUMES = ("onnx", "openvino")
PRODUCES = "openvino"
TOOLS = ("openvino",)
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 1e-4  # float32 on another runtime: sums in another order, nothing else
COMPILE: tuple[str, ...] = ()
SEARCH = ({"precision": "bf16"}, {"precision": "f16"})
SCHEME = QuantScheme(
    target="openvino",
    format="openvino",
    activation="uint8",
    activation_symmetric=True,
    per_channel=True,
    quantize_bias=False,
    half=("fp16", "bf16"),
)
COUNTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNCell", "RNNSeq")
INTEGERS = ("i8", "u8", "i4", "u4")


class Options(Strict):
    """How the model is run."""

    threads: int | None = Field(None, ge=1, description="threads that one inference may use; default: as measured")
    precision: Literal["artifact", "f32", "bf16", "f16"] = Field(
        "artifact", description="type of what is not quantized; artifact: as the half step chose it, else f32"
    )
    performance: Literal["latency", "throughput"] = Field("latency", description="OpenVINO's performance hint")
    streams: int | None = Field(None, ge=1, description="inferences that may run side by side; default: by the hint")


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


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:  # noqa: ARG001  # the protocol's signature
    """Convert ONNX to IR with the signature's names and full-precision weights; IR is handed on as it is."""
    if source.format == "openvino":
        for file in openvino_format.files(source.path):
            disk.link_or_copy(file, out / file.name)
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
    model = openvino_format.load(artifact.path)
    wanted = openvino_format.precision(artifact.path) if options.precision == "artifact" else options.precision
    # Without a hint OpenVINO computes in bfloat16 on CPUs that have it, and says nothing.
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": wanted, "PERFORMANCE_HINT": options.performance.upper()}
    if options.threads:
        # OpenVINO counts the threads of all streams together, and opens no more streams than threads, without a word.
        config["INFERENCE_NUM_THREADS"] = options.threads * (options.streams or 1)
    if options.streams:
        config["NUM_STREAMS"] = options.streams
    try:
        compiled = openvino_format.compiled(model, config)
    except RuntimeError as error:
        raise OptimizerError(
            f"OpenVINO cannot compile {artifact.path}: {openvino_format.reason(error)}", "see optc doctor"
        ) from None
    del model
    yield _Compiled(compiled, artifact)


class _Compiled:
    """A compiled model with one inference request per caller."""

    def __init__(self, compiled: openvino.CompiledModel, artifact: Artifact) -> None:
        self.signature = artifact.signature
        self._artifact = artifact
        self._compiled = compiled
        self._request = compiled.create_infer_request()
        self._names = [openvino_format.output_name(port) for port in compiled.outputs]

    @functools.cached_property
    def precision(self) -> str:
        """The types that the layers of the compiled model really have."""
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        layers = Counter(kind for kind in map(_layer, self._compiled.get_runtime_model().get_ops()) if kind)
        return describe(layers, hint)

    def fork(self) -> Session:
        """Another request of the same compiled model."""
        # The binding sets up its view of numpy at the first array, under a guard that it holds while it waits for
        # Python's lock: first arrays of two threads at once block each other for ever (openvino 2026.4, pybind11).
        openvino_format.library().Tensor(np.zeros(1, np.float32))
        return _Compiled(self._compiled, self._artifact)

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        try:
            # Inputs are read in place, outputs are copied: the next call must not overwrite them.
            found = self._request.infer(dict(feeds), share_inputs=True)
        except (RuntimeError, ValueError, TypeError) as error:
            given = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in feeds.items())
            raise OptimizerError(
                f"OpenVINO refuses the inputs {given}: {str(error).strip().splitlines()[-1]}",
                f"the model takes {', '.join(f'{s.name}: {s}' for s in self.signature.inputs)}",
            ) from None
        return {name: found[i] for i, name in enumerate(self._names)}


def _layer(node: Any) -> str | None:
    """The type in which a convolution or matrix product runs; None for everything else."""
    info = node.get_rt_info()
    return str(info["runtimePrecision"].astype(str)) if info["layerType"].astype(str) in COUNTED else None


def describe(layers: Counter[str], hint: str) -> str:
    """What runs in words, such as `int8 (21 of 22 convolutions and matrix products), float32 elsewhere`.

    `layers`: OpenVINO's short type names of those layers; `hint`: of everything else.
    """
    rest = openvino_format.TYPES.get(hint, hint)
    total = sum(layers.values())
    integers = sum(layers[name] for name in INTEGERS)
    if integers:
        return f"int8 ({integers} of {total} convolutions and matrix products), {rest} elsewhere"
    most = layers.most_common(1)[0] if layers else (hint, 0)
    name = openvino_format.TYPES.get(most[0], most[0])
    return name if most[1] == total else f"{name} ({most[1]} of {total} convolutions and matrix products)"
