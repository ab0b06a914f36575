"""The format `onnx`: `model.onnx`, with `model.onnx.data` beside it when the weights do not fit into one message."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optimizer.errors import OptimizerError
from optimizer.formats import nodes, onnx_bfloat16, onnx_glance
from optimizer.values import DTYPES, Signature, TensorSpec

if TYPE_CHECKING:
    import onnx
    import onnxruntime

FILE = "model.onnx"
DATA = "model.onnx.data"
SHAPE = 32  # numbers: no tensor has more dimensions, and paddings are two per dimension
EXTERNAL_ABOVE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB
# Quantizes the weights of a layer that was left in float on purpose, when its neighbours are quantized.
UNWANTED = ("WeightBiasQuantization",)
# Takes the type of a zero point for uint8, so that a ReLU in front of a pair of 8-bit floats is gone (seen: 1.32).
WRONG_IN_FLOAT8 = ("ReluQuantRewrite",)
ON_CPU = ("CPUExecutionProvider",)
FLOAT8 = (17, 18, 19, 20)  # of onnx.TensorProto
ORT_FAULTS = (
    "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented", "RuntimeException",
    "EPFail", "NoModel", "NotFound",
)  # fmt: skip

Level = Literal["all", "extended", "basic", "none"]


def read(path: Path) -> Signature:
    """The signature of the graph; symbolic dimensions keep their names.

    Raises OptimizerError when a file is missing or damaged, or when the graph breaks ONNX's rules.
    """
    model = parse(path / FILE)
    for name in external_files(model):
        if not (path / name).is_file():
            raise OptimizerError(f"{path / FILE} keeps weights in '{name}', which is missing", "copy it beside it")
    check(path / FILE)
    return signature(model)


def files(path: Path) -> list[Path]:
    """The model file and its external data."""
    return [path / FILE, *(path / name for name in external_files(parse(path / FILE)))]


def parse(file: Path) -> onnx.ModelProto:
    """The model message of a file without its external data."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

    try:
        model = onnx.load(file, load_external_data=False)
    except FileNotFoundError:
        raise OptimizerError(f"no such model file: {file}", "build it again") from None
    except DecodeError as error:
        raise OptimizerError(f"{file} is no ONNX model: {error}", "check the file, it may be truncated") from None
    if not model.graph.output:
        raise OptimizerError(f"{file} is no ONNX model: its graph has no outputs", "check the file")
    return model


def quantized(path: Path) -> bool:
    """Whether the graph holds Q/DQ pairs."""
    return nodes.paired(parse(path / FILE))


def typed(path: Path) -> str:
    """The types that the graph of an artifact computes in, as it is written: `float32`, `int8, float16 elsewhere`."""
    import onnx

    model = parse(path / FILE)
    sizes: Counter[str] = Counter()
    for tensor in _tensors(model.graph):
        name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
        if "float" in name and "float8" not in name:
            sizes[{"float": "float32"}.get(name, name)] += math.prod(tensor.dims)
    most = sizes.most_common(1)[0][0] if sizes else "float32"
    return f"int8, {most} elsewhere" if nodes.paired(model) else most


def check(file: Path) -> None:
    """Raise OptimizerError when the model in the file breaks a rule of ONNX."""
    import onnx

    try:
        onnx.checker.check_model(str(file))
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())[:400]
        raise OptimizerError(f"{file} is not valid ONNX: {reason}", "export it again") from None


def load(path: Path) -> onnx.ModelProto:
    """The model of the artifact in the directory `path`, external data included."""
    import onnx

    return onnx.load(path / FILE)


def save(model: onnx.ModelProto, out: Path) -> None:
    """Write the model into the directory `out`, with external data when one message cannot hold it."""
    import onnx

    if model.ByteSize() > EXTERNAL_ABOVE:
        onnx.save(model, out / FILE, save_as_external_data=True, all_tensors_to_one_file=True, location=DATA)
    else:
        onnx.save(model, out / FILE)


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files that hold the model's external data, relative to the model file."""
    found: dict[str, None] = {}
    for tensor in _tensors(model.graph):
        for entry in tensor.external_data:
            if entry.key == "location":
                found[entry.value] = None
    return list(found)


def read_external_shapes(model: onnx.ModelProto, folder: Path) -> None:
    """Read into the model those integers of its external data, in `folder`, that are few enough to be a shape.

    What is not there, or lies outside the folder, stays external.
    """
    import onnx

    for tensor in _tensors(model.graph):
        few = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32) and math.prod(tensor.dims) <= SHAPE
        if few and tensor.data_location == onnx.TensorProto.EXTERNAL:
            with contextlib.suppress(OSError, ValueError, onnx.checker.ValidationError):
                onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))


def _tensors(graph: Any) -> Any:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)


def signature(model: onnx.ModelProto) -> Signature:
    """The named inputs and outputs of a graph; a dimension without size or name is named after its place."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return Signature(tuple(map(_spec, inputs)), tuple(map(_spec, model.graph.output)))


def _spec(value: Any) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    name = "" if value.type.WhichOneof("value") != "tensor_type" else onnx.TensorProto.DataType.Name(kind.elem_type)
    dtype = {"float": "float32", "double": "float64"}.get(name.lower(), name.lower())
    if dtype not in DTYPES:
        raise OptimizerError(
            f"'{value.name}' is a {name.lower() or value.type.WhichOneof('value')}, which is no supported tensor type",
            f"supported: {', '.join(DTYPES)}",
        )
    dims = [d.dim_value or d.dim_param or f"{value.name}_{i}" for i, d in enumerate(kind.shape.dim)]
    return TensorSpec(value.name, dtype, tuple(dims))


def inference_session(
    path: Path,
    threads: int | None,
    graph_optimization: Level = "all",
    providers: Sequence[str | tuple[str, dict[str, str]]] | None = ON_CPU,
    configure: Callable[[onnxruntime.SessionOptions], None] = lambda options: None,
    disabled: Sequence[str] = UNWANTED,
) -> onnxruntime.InferenceSession:
    """A raw ONNX Runtime session on the artifact in the directory `path`.

    `threads`: how many one operator may use; None leaves it to the runtime. `providers`: None where `configure` has
    named the devices. `configure` may set further session options; `disabled` names optimizers of the runtime that are
    left out. A bfloat16 graph, for which the CPU provider has no kernels, is emulated there (see `onnx_bfloat16`).
    Raises OptimizerError when the runtime refuses the model.
    """
    import onnxruntime

    left = [*disabled, *(WRONG_IN_FLOAT8 if holds_float8(path / FILE) else ())]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about its own optimizations
    options.graph_optimization_level = _level(onnxruntime, graph_optimization)
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    configure(options)

    def opened(folder: Path) -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(
                str(folder / FILE),
                options,
                providers=None if providers is None else list(providers),
                disabled_optimizers=left,
                enable_fallback=0,  # what fails is an error, never another provider with a line on the screen
            )
        except ort_faults() as error:
            reason = " ".join(str(error).split())[:400]
            raise OptimizerError(
                f"ONNX Runtime {onnxruntime.__version__} refuses {path / FILE}: {reason}",
                "an operator or type is not supported there; see optc doctor for the installed version",
            ) from None

    try:
        return opened(path)
    except OptimizerError:
        if providers != ON_CPU or not onnx_bfloat16.holds(parse(path / FILE)):
            raise
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        save(onnx_bfloat16.emulated(load(path)), Path(folder))
        return opened(Path(folder))


def holds_float8(file: Path) -> bool:
    """Whether a graph holds pairs of 8-bit floats. It is asked for every session: nothing is parsed but nodes."""
    import onnx

    try:
        kinds, encoded = onnx_glance.pairs(file)
    except (OSError, ValueError):  # missing, empty or damaged, which the runtime says better
        return False
    if kinds & {*FLOAT8}:
        return True
    graph = onnx.GraphProto(node=[onnx.NodeProto.FromString(node) for node in encoded])
    return any(tensor.data_type in FLOAT8 for tensor in _tensors(graph))


def ort_faults() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises when it refuses a model or its inputs; its exceptions have no common base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (*(getattr(state, name) for name in ORT_FAULTS if hasattr(state, name)), ValueError)


def _level(onnxruntime: Any, level: Level) -> Any:
    names = {
        "all": "ORT_ENABLE_ALL",
        "extended": "ORT_ENABLE_EXTENDED",
        "basic": "ORT_ENABLE_BASIC",
        "none": "ORT_DISABLE_ALL",
    }
    return getattr(onnxruntime.GraphOptimizationLevel, names[level])
