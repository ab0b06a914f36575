"""The format `openvino`: `model.xml` and `model.bin`, and `runtime.json` for settings that belong to it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from optimizer import disk
from optimizer.errors import OptimizerError, missing_extra
from optimizer.formats.signals import own_signal_stack
from optimizer.values import Signature, TensorSpec

if TYPE_CHECKING:
    import openvino

FILE = "model.xml"
WEIGHTS = "model.bin"
RUNTIME = "runtime.json"
TYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "boolean": "bool", "string": "string",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8",
}  # fmt: skip
RESULT = "/sink_port_0"  # how the frontends name the node behind an output

Precision = Literal["f32", "bf16", "f16"]


def read(path: Path) -> Signature:
    """The signature of the model; a dimension that is free is named after its place.

    Raises OptimizerError when a file is missing or damaged.
    """
    precision(path)
    return signature(load(path))


def files(path: Path) -> list[Path]:
    """The model's files, in a fixed order."""
    return [path / name for name in (FILE, WEIGHTS, RUNTIME) if name != RUNTIME or (path / name).is_file()]


def copy(file: Path, out: Path) -> None:
    """Put the IR of `file`, which may have any name, into the directory `out`, with its weights and settings.

    Raises OptimizerError when the weights are not beside it.
    """
    weights, settings = file.with_suffix(".bin"), file.with_name(RUNTIME)
    if not weights.is_file():
        raise OptimizerError(
            f"no such model file: {weights}", f"an OpenVINO IR is two files: copy it beside {file.name}"
        )
    disk.link_or_copy(file, out / FILE)
    disk.link_or_copy(weights, out / WEIGHTS)
    if file.name == FILE and settings.is_file():
        disk.link_or_copy(settings, out / RUNTIME)


def library() -> Any:
    """The module `openvino`, with its telemetry off. Raises OptimizerError when it is not installed."""
    mute_telemetry()
    try:
        import openvino
    except ImportError:
        raise missing_extra("openvino", "openvino", "an OpenVINO model") from None
    return openvino


def mute_telemetry() -> None:
    """Make sure that OpenVINO and NNCF cannot send usage data: both do so by default, with no question asked.

    The package that sends is declared absent before they look for it; when somebody else has loaded it
    already, its consent is withdrawn.
    """
    sender: Any = sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: not importable
    if sender is not None:
        for name in ("start_session", "end_session", "send_event", "send_error", "send_stack_trace"):
            setattr(sender.Telemetry, name, lambda *args, **kwargs: None)


def compiled(model: openvino.Model, config: dict[str, Any]) -> openvino.CompiledModel:
    """The model compiled for the CPU."""
    with own_signal_stack():
        return library().Core().compile_model(model, "CPU", config)


def load(path: Path) -> openvino.Model:
    """The model of the artifact in the directory `path`."""
    ov = library()
    for name in (FILE, WEIGHTS):
        if not (path / name).is_file():
            raise OptimizerError(f"no such model file: {path / name}", "build it again")
    try:
        return ov.Core().read_model(path / FILE)
    except RuntimeError as error:
        raise OptimizerError(
            f"{path / FILE} is no OpenVINO model: {reason(error)}", "check the files, they may be truncated"
        ) from None


def save(model: openvino.Model, out: Path, half: bool = False, precision: Precision = "f32") -> None:
    """Write the model into the directory `out`; `half` stores its float weights in 16 bits."""
    library().save_model(model, str(out / FILE), compress_to_fp16=half)
    if precision != "f32":
        (out / RUNTIME).write_text(json.dumps({"precision": precision}, indent=1) + "\n", encoding="utf-8")


def precision(path: Path) -> Precision:
    """The floating-point type that the artifact asks the runtime to compute in; f32 unless it says otherwise."""
    file = path / RUNTIME
    if not file.is_file():
        return "f32"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OptimizerError(f"{file} is not JSON: {error}", "build the artifact again") from None
    if not isinstance(found, dict) or found.get("precision") not in get_args(Precision):
        raise OptimizerError(
            f"{file} names no precision that is known; available: {', '.join(get_args(Precision))}",
            'write {"precision": "f32"}, or build the artifact again',
        )
    return found["precision"]  # type: ignore[no-any-return]  # one of the literals, as just checked


def signature(model: openvino.Model | openvino.CompiledModel) -> Signature:
    """The named inputs and outputs of a model, in its order."""
    return Signature(
        tuple(_spec(_input_name(port), port) for port in model.inputs),
        tuple(_spec(output_name(port), port) for port in model.outputs),
    )


def output_name(port: Any) -> str:
    """The name of an output. Two outputs may share one tensor, which then has both names: the node tells them apart."""
    own = str(port.node.get_friendly_name()).removesuffix(RESULT)
    names = sorted(port.get_names())
    return own if own in names or not names else str(names[0])


def name_outputs(model: openvino.Model, names: tuple[str, ...]) -> None:
    """Give the outputs these names, in order, and take all other names of their tensors away."""
    for port in model.outputs:
        port.get_tensor().set_names(set())
    for port, name in zip(model.outputs, names, strict=True):
        tensor = port.get_tensor()
        tensor.set_names({*tensor.get_names(), name})
        port.node.set_friendly_name(name + RESULT)


def name_inputs(model: openvino.Model, names: tuple[str, ...]) -> None:
    """Give the inputs these names, in order."""
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})


def reason(error: RuntimeError) -> str:
    """The telling part of an OpenVINO exception on one line."""
    missing = re.search(r"No conversion rule found for operations: (.*)", str(error))
    if missing:
        return f"it has no such operator: {missing[1]}"
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return " ".join(" ".join(lines or [str(error)]).split())[:400]


def _input_name(port: Any) -> str:
    names = sorted(port.get_names())
    return str(names[0]) if names else str(port.node.get_friendly_name())


def _spec(name: str, port: Any) -> TensorSpec:
    short = str(port.element_type.get_type_name())
    if short not in TYPES:
        raise OptimizerError(f"'{name}' is of the type {short}", f"supported: {', '.join(TYPES.values())}")
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        raise OptimizerError(f"'{name}' has no fixed number of dimensions", "export it with known ranks")
    dims = [f"{name}_{i}" if dim.is_dynamic else int(dim.get_length()) for i, dim in enumerate(shape)]
    return TensorSpec(name, TYPES[short], tuple(dims))
