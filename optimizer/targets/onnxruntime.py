"""onnxruntime: ONNX as it is, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from optimizer import disk, machine
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats.feeds import synthetic_feeds
from optimizer.protocols import Context, Feeds, Session
from optimizer.schema import Strict
from optimizer.values import Artifact, QuantScheme

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

VERSION = 1
CONSUMES = ("onnx",)
PRODUCES = "onnx"
TOOLS = ("onnxruntime",)
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 1e-4  # the files are handed on unchanged; only the runtime's own optimizations lie between
COMPILE: tuple[str, ...] = ()
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
    half=("fp16",),
)  # fmt: skip
INTEGER_OPS = frozenset((
    "QLinearConv", "QLinearMatMul", "QGemm", "QAttention", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM", "QLinearConvTranspose",
))  # fmt: skip
FLOAT_OPS = frozenset((
    "Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Attention",
    "MultiHeadAttention", "LSTM", "GRU",
))  # fmt: skip
TYPES = {"float": "float32", "double": "float64"}


class Options(Strict):
    """How the model is run."""

    threads: int | None = Field(
        None, ge=1, description="threads that one operator may use, shared by all callers; default: as measured"
    )
    graph_optimization: Literal["none", "basic", "extended", "all"] = Field(
        "all", description="how far ONNX Runtime rewrites the graph when it loads it"
    )
    spinning: bool = Field(
        True, description="idle threads spin: lower latency, but they burn a core between two inferences"
    )


def probe() -> str | None:
    """None when exactly one ONNX Runtime is installed, else what to do. Two of them overwrite each other's files."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if machine.version_of(name)]
    if not found:
        return "ONNX Runtime is not installed; pip install onnxruntime"
    if len(found) > 1:
        return (
            "onnxruntime and onnxruntime-gpu are installed together and overwrite each other's files; "
            "pip uninstall onnxruntime onnxruntime-gpu, then install the one you need"
        )
    return None


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:  # noqa: ARG001  # the protocol's signature
    """Hand the model on unchanged: ONNX Runtime compiles it when it is loaded."""
    for file in onnx_format.files(source.path):
        to = out / file.relative_to(source.path)
        if file.name == onnx_format.FILE:
            disk.link_or_copy(file, to)
        else:  # onnx.checker refuses external data that is a link, as a possible attack
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)


@contextlib.contextmanager
def open(artifact: Artifact, options: Options) -> Iterator[Session]:  # the protocol's name
    """A session on the model. Its first run is profiled, which tells the kernels that really ran."""
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:

        def configure(settings: onnxruntime.SessionOptions) -> None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(Path(folder) / "profile")
            settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options.spinning)))

        session = onnx_format.inference_session(
            artifact.path, options.threads, options.graph_optimization, configure=configure
        )
        yield _Loaded(session, artifact)


class _Loaded:
    """A loaded model."""

    def __init__(self, session: onnxruntime.InferenceSession, artifact: Artifact) -> None:
        self.signature = artifact.signature
        self._session = session
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
        return describe(json.loads(Path(str(self._profile)).read_bytes()))

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


def describe(events: list[dict[str, Any]]) -> str:
    """What ran in words, such as `int8 (21 of 22 convolutions and matrix products), float32 elsewhere`."""
    kernels = {e["args"]["node_index"]: e["args"] for e in events if e.get("name", "").endswith("_kernel_time")}
    floats = Counter(_float_type(kernel) for kernel in kernels.values() if kernel["op_name"] in FLOAT_OPS)
    integers = sum(kernel["op_name"] in INTEGER_OPS for kernel in kernels.values())
    total = integers + sum(floats.values())
    name, count = floats.most_common(1)[0] if floats else ("float32", 0)
    if integers:
        return f"int8 ({integers} of {total} convolutions and matrix products), {name} elsewhere"
    return name if count == total else f"{name} ({count} of {total} convolutions and matrix products)"


def _float_type(kernel: dict[str, Any]) -> str:
    """The type of the first input of a kernel."""
    shapes = kernel.get("input_type_shape") or [{}]
    name = next(iter(shapes[0]), "float")
    return TYPES.get(name, name)
