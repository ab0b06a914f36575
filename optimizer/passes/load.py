"""load: the user's model -> the format `torch` (by reference), or a ready ONNX file -> the format `onnx` (by copy)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from optimizer.errors import OptimizerError
from optimizer.formats import torch as torch_format
from optimizer.formats.record import Built, Record
from optimizer.protocols import Context
from optimizer.recipe import ModelSpec
from optimizer.values import Artifact, Signature, TensorSpec

VERSION = 2  # ONNX: weights are no inputs, and are in the file itself
CONSUMES: tuple[str, ...] = ()
PRODUCES = None  # see `produces`
TOOLS: tuple[str, ...] = ()  # see `tools`
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = None
Options = ModelSpec
OLD_OPSET = 13  # the first with per-channel DequantizeLinear


def produces(spec: ModelSpec) -> str:
    """The format that a model becomes: decided by the spelling of its file."""
    return "onnx" if spec.file is not None and spec.file.suffix == ".onnx" else "torch"


def tools(options: ModelSpec) -> tuple[str, ...]:
    """The distributions that read this model: an ONNX file needs no torch."""
    if produces(options) == "onnx":
        return ("onnx",)
    return ("torch", "safetensors", *(("transformers",) if options.hf else ()))


def stale(path: Path, options: ModelSpec) -> bool:
    """Whether the artifact in `path` refers to other files than the options: equal content, but moved."""
    if produces(options) == "onnx":
        return False
    try:
        record = torch_format.load_record(path)
    except OptimizerError:
        return True
    wanted = [options.entry, options.weights, options.file, options.hf]
    return [record.entry, record.weights, record.file, record.hf] != [str(v) if v else None for v in wanted]


def run(source: Artifact | None, options: ModelSpec, ctx: Context, out: Path) -> None:
    """Look at the model, run it once or more, and write down what it takes and returns.

    Raises OptimizerError for code that raises, weights that do not fit, NaN outputs, and a damaged file.
    """
    if source is not None:
        raise AssertionError("BUG: load starts a chain, it has no source")
    if produces(options) == "onnx":
        _load_onnx(options, ctx, out)
    else:
        _load_torch(options, ctx, out)


def _load_torch(options: ModelSpec, ctx: Context, out: Path) -> None:
    from optimizer.formats import modules, probe

    record = Record(
        signature=_written(options.inputs),
        entry=options.entry,
        args=options.args,
        weights=_text(options.weights),
        file=_text(options.file),
        hf=_text(options.hf),
        task=options.task,
        dims=options.dims,
        seed=ctx.seed,
    )
    record = dataclasses.replace(record, digests=torch_format.digests(record))
    built = modules.build(record)
    if not options.inputs:
        record = _with_inputs(record, built)
    _check_dims(record)
    found = probe.outputs(built, record, ctx.samples, options.outputs)
    state = built.module.state_dict().values()
    record = dataclasses.replace(
        record,
        signature=Signature(record.signature.inputs, found),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in state),
    )
    torch_format.write(record, out)
    ctx.note("parameters", sum(parameter.numel() for parameter in built.module.parameters()))
    ctx.note("outputs", {spec.name: str(spec) for spec in found})


def _written(inputs: dict[str, str]) -> Signature:
    return Signature(tuple(TensorSpec.parse(name, text) for name, text in inputs.items()), ())


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def _with_inputs(record: Record, built: Built) -> Record:
    """The record with the inputs that the model itself declares."""
    if record.hf:
        from optimizer.formats import huggingface

        inputs, dims = huggingface.inputs(Path(record.hf), built.module)
        return dataclasses.replace(record, signature=_written(inputs), dims={**dims, **record.dims})
    if str(record.file).endswith(".pt2"):
        from optimizer.formats import modules

        inputs, dims = modules.program_inputs(modules.read_program(Path(str(record.file))))
        return dataclasses.replace(record, signature=_written(inputs), dims={**dims, **record.dims})
    raise OptimizerError(
        f"{record.origin}: a TorchScript archive does not say what it takes",
        "add model.inputs, for example {image: 'float32[batch,3,224,224]'}",
    )


def _check_dims(record: Record) -> None:
    known = record.signature.symbols()
    for name, (low, high) in record.dims.items():
        if name not in known:
            raise OptimizerError(
                f"model.dims: no input has a free dimension '{name}'; available: {', '.join(known) or 'none'}",
                "name the dimension as in model.inputs",
            )
        if not 1 <= low <= high:
            raise OptimizerError(f"model.dims: {name}: [{low}, {high}] is no range", "write [smallest, largest]")


def _load_onnx(options: ModelSpec, ctx: Context, out: Path) -> None:
    from optimizer.formats import onnx_source

    for name in ("outputs", "dims"):
        if getattr(options, name):
            raise OptimizerError(f"model.{name} does not apply to an ONNX file", f"remove model.{name}")
    model = onnx_source.copy(Path(str(options.file)), _written(options.inputs), out)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    ctx.note("opset", opsets)
    ctx.note("ir_version", model.ir_version)
    if opsets.get("ai.onnx", 0) < OLD_OPSET:
        ctx.warn(
            f"{Path(str(options.file)).name} uses opset {opsets.get('ai.onnx')}, some steps need {OLD_OPSET} or later"
        )
    onnx_source.try_run(out, ctx.samples, str(options.file))
