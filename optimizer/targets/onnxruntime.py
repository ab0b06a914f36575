"""onnxruntime: ONNX as it is, run by ONNX Runtime on the CPU, or on an NVIDIA GPU by one of its providers."""

from __future__ import annotations

import contextlib
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from optimizer import formats, machine
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_bfloat16, providers
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.tensorrt import scheme
from optimizer.protocols import Context, Feeds, Session
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import onnxruntime

VERSION = 1
CONSUMES = ("onnx",)
PRODUCES = "onnx"
TOOLS = ("onnxruntime",)
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 1e-4  # the files are handed on unchanged; only the runtime's own optimizations lie between
COMPILE = ("provider", "device", "tf32")  # they change no file: what ran elsewhere is compared anew
FOREIGN = {"finish_quantization": True}  # as ONNX Runtime opens a file by default
SEARCH = ({"graph_optimization": "extended"},)  # without the layouts that this CPU is said to like
SCHEME = QuantScheme(
    target="onnxruntime",
    format="onnx",
    ops=(
        "Conv", "Gemm", "MatMul", "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool",
        "GlobalAveragePool", "Concat", "Split", "Slice", "Pad", "Resize", "Reshape", "Flatten", "Transpose", "Squeeze",
        "Unsqueeze", "Gather",
    ),
    # Attention scores and probabilities lose most in 8 bits and gain least: all-MiniLM-L6-v2 drops from
    # .73 to .60 Spearman when they are quantized. The products run faster into float than into uint8.
    constant_weights_only=("MatMul", "Gemm"),
    float_outputs=("MatMul", "Gemm"),
    dynamic=True,
    weight_only=(4, 8),
    half=("fp16",),
    fused=("MultiHeadAttention", "LayerNormalization", "Gelu"),
)  # fmt: skip
INTEGER_OPS = frozenset((
    "QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "QLinearConvTranspose",
))  # fmt: skip
FLOAT_OPS = frozenset((
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention",
    "MultiHeadAttention", "LSTM", "GRU",
))  # fmt: skip
WEIGHT_OPS = frozenset(("MatMulNBits",))
TYPES = {"float": "float32", "double": "float64"}


class Options(Strict):
    """How the model is run."""

    threads: int | None = Field(
        None, ge=1, description="threads that one operator may use, shared by all callers; default: as measured"
    )
    graph_optimization: Literal["none", "basic", "extended", "all"] = Field(
        "all", description="how far ONNX Runtime rewrites the graph when it loads it"
    )
    finish_quantization: bool = Field(
        False,
        description="let ONNX Runtime quantize float weights and biases between 8-bit values when it loads the file: "
        "other quantizers count on it, but what was kept in float on purpose is quantized too",
    )
    spinning: bool = Field(
        True, description="idle threads spin: lower latency, but they burn a core between two inferences"
    )
    provider: providers.Name = Field(
        "cpu", description="what runs the model: the CPU, or an NVIDIA GPU by ONNX Runtime's provider of this name"
    )
    device: int = Field(0, ge=0, description="which GPU runs it")
    tf32: bool = Field(
        False, description="provider cuda: float32 products may round their factors to 10 bits, faster on recent GPUs"
    )
    cpu_fallback: bool = Field(
        True,
        description="nodes that the provider cannot run may run on the CPU, which is told; false: refuse the model",
    )

    @model_validator(mode="after")
    def _fits(self) -> Options:
        """What belongs to a GPU is refused where there is none."""
        given = [name for name in ("device", "tf32", "cpu_fallback") if name in self.model_fields_set]
        changed = [name for name in given if getattr(self, name) != type(self).model_fields[name].default]
        if changed and self.provider == "cpu":
            raise ValueError(f"'{changed[0]}' is for a GPU: name its provider too, such as provider: cuda")
        if self.tf32 and self.provider != "cuda":
            raise ValueError(f"'tf32' is for provider: cuda, this is provider: {self.provider}")
        return self


def probe() -> str | None:
    """None when exactly one ONNX Runtime is installed, else what to do. Two of them overwrite each other's files."""
    found = [name for name in machine.BUILDS["onnxruntime"] if machine.exactly(name)]
    if not found:
        return "ONNX Runtime is not installed; pip install onnxruntime"
    if len(found) > 1:
        return (
            "onnxruntime and onnxruntime-gpu are installed together and overwrite each other's files; "
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one you need"
        )
    return None


def schemed(options: Options) -> QuantScheme:
    """How graphs are quantized for the provider: for TensorRT's as for its engines, for CUDA's not in 8 bits at all."""
    if options.provider == "cuda":
        return replace(SCHEME, target="onnxruntime's CUDA provider", static=(), dynamic=False)
    engines = providers.FLAVOURS.get(options.provider)
    return scheme.of(engines) if engines else SCHEME


def pending(options: Options) -> str | None:
    """None when the model can run here as the options say, else why it cannot and how to get there."""
    return providers.lacking(options.provider, options.device)


def away(source: Artifact, options: Options) -> float | None:
    """How far outputs on a GPU may lie from those on the CPU; None on the CPU, which gives them in the first place."""
    if options.provider == "cpu":
        return None
    rounds = options.tf32 or options.provider == "tensorrt"  # whose products round to TF32 where the GPU can
    found: float = max(scheme.limit(source), 1e-2 if rounds else 0.0)
    return found


def oracle(artifact: Artifact) -> Artifact:
    """The model itself: ONNX Runtime runs it on the CPU as well."""
    return artifact


def built_as(artifact: Artifact) -> str:
    """The types that its graph is written in: all that can be said before it has run."""
    return onnx_format.typed(artifact.path)


def runs_on(options: Options) -> dict[str, str | None]:
    """What of this machine beside the CPU decides the numbers: nothing, or the GPU and what drives it."""
    return providers.runs_on(options.provider, options.device)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:  # noqa: ARG001  # the protocol's signature
    """Hand the model on unchanged: ONNX Runtime compiles it when it is loaded."""
    formats.hand_on("onnx", source.path, out)


@contextlib.contextmanager
def open(artifact: Artifact, options: Options) -> Iterator[Session]:  # the protocol's name
    """A session on the model. Its first run is profiled, which tells the kernels that really ran."""
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:

        def configure(settings: onnxruntime.SessionOptions) -> None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / "profile")

        yield _Loaded(loaded(artifact.path, options, configure), artifact, options.provider)


def loaded(
    path: Path, options: Options, configure: Callable[[onnxruntime.SessionOptions], None]
) -> onnxruntime.InferenceSession:
    """The model as ONNX Runtime loads it with these options; `configure` may set others of its own."""

    def configured(settings: onnxruntime.SessionOptions) -> None:
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))
        configure(settings)

    disabled = () if options.finish_quantization else onnx_format.UNWANTED
    open = functools.partial(
        onnx_format.inference_session, path, options.threads, options.graph_optimization, disabled=disabled
    )
    if options.provider == "cpu":
        return open(configure=configured)
    wanted = providers.Wanted(options.provider, options.device, options.tf32, options.cpu_fallback)
    return providers.session(wanted, onnx_format.typed(path), open, configured)


class _Loaded:
    """A loaded model."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: Artifact, provider: providers.Name) -> None:
        self.signature = artifact.signature
        self._session, self._provider = session, provider
        self._file = artifact.path / onnx_format.FILE
        self._names = [spec.name for spec in artifact.signature.outputs]
        self._faults = onnx_format.ort_faults()
        self._profile: Path | None = None

    @functools.cached_property
    def precision(self) -> str:
        """The types that convolutions and matrix products really run in, after the runtime's own rewriting."""
        if self._profile is None:
            try:
                self(synthetic_feeds(self.signature, dict.fromkeys(self.signature.symbols(), 1), seed=0))
            except OptimizerError:
                self._end_profile()  # such a small input does not fit: only the kernels before the fault are known
        if onnx_bfloat16.MARK in self._session.get_modelmeta().custom_metadata_map:
            return "float32 emulating bfloat16"
        events = json.loads(Path(str(self._profile)).read_bytes())
        ops = {event.get("args", {}).get("op_name") for event in events}
        found = describe(events, weight_widths(onnx_format.parse(self._file)) if ops & WEIGHT_OPS else None)
        if self._provider == "cpu":
            return found
        if not ops & (FLOAT_OPS | INTEGER_OPS | WEIGHT_OPS):  # compiled as a whole: the profile knows nothing of it
            found = onnx_format.typed(self._file.parent)
        return f"{found} {providers.placed(self._provider, events)}"

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        try:
            found = self._session.run(self._names, feeds)
        except self._faults as error:
            given = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in feeds.items())
            raise OptimizerError(
                f"ONNX Runtime refuses the inputs {given}: {' '.join(str(error).split())[:300]}",
                f"the model takes {', '.join(f'{s.name}: {s}' for s in self.signature.inputs)}",
            ) from None
        if self._profile is None:
            self._end_profile()
        return dict(zip(self._names, found, strict=True))

    def fork(self) -> Session:
        """The session itself: ONNX Runtime's Run may be called by several threads. The profiled run has to be over."""
        _ = self.precision
        return self

    def _end_profile(self) -> None:
        self._profile = Path(self._session.end_profiling())


def weight_widths(model: onnx.ModelProto) -> dict[str, int]:
    """Node -> bits of its weights, for products of float activations with integer weights; the profile is silent."""
    nodes = (node for node in model.graph.node if node.op_type in WEIGHT_OPS)
    return {node.name: next((a.i for a in node.attribute if a.name == "bits"), 4) for node in nodes}


def describe(events: list[dict[str, Any]], widths: Mapping[str, int] | None = None) -> str:
    """What ran in words, such as `int8 (21 of 22 convolutions and matrix products), float32 elsewhere`.

    Integer weights alone are told apart, by `widths` (see `weight_widths`): `int4 weights (24 of 36 ...)`.
    """
    kernels = {
        e["args"]["node_index"]: (e["name"].removesuffix(providers.KERNEL), e["args"])
        for e in events
        if e.get("name", "").endswith(providers.KERNEL)
    }
    ran: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for name, kernel in kernels.values():
        if kernel["op_name"] in FLOAT_OPS:
            floats[_float_type(kernel)] += 1
        elif kernel["op_name"] in INTEGER_OPS:
            ran["int8"] += 1
        elif kernel["op_name"] in WEIGHT_OPS:
            ran[f"int{(widths or {}).get(name, 4)} weights"] += 1
    total = ran.total() + floats.total()
    rest, count = floats.most_common(1)[0] if floats else ("float32", 0)
    of = f"of {total} convolutions and matrix products"
    if ran:
        first, *others = ran.most_common()
        parts = [f"{first[0]} ({first[1]} {of})", *(f"{kind} ({number})" for kind, number in others)]
        return f"{', '.join(parts)}, {rest} elsewhere"
    return rest if count == total else f"{rest} ({count} {of})"


def _float_type(kernel: dict[str, Any]) -> str:
    """The type of the first input of a kernel."""
    shapes = kernel.get("input_type_shape") or [{}]
    name = next(iter(shapes[0]), "float")
    return TYPES.get(name, name)
