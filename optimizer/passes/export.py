"""export: torch -> onnx by torch.onnx.export, verified before it counts, with a second exporter to fall back on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from optimizer import formats
from optimizer.errors import OptimizerError
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_export
from optimizer.formats.export_faults import FAULTS, Fault, explain, frozen_decisions
from optimizer.formats.quiet import native, quiet
from optimizer.formats.torch import TorchModel, load_record, open_model
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.values import Artifact, Signature

if TYPE_CHECKING:
    import onnx_ir
    import torch

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "onnx"
TOOLS = ("torch", "onnx", "onnxscript")
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 1e-4

EXPORTERS = {"auto": ("dynamo", "torchscript"), "dynamo": ("dynamo",), "torchscript": ("torchscript",)}


class Options(Strict):
    """How a module becomes an ONNX graph."""

    opset: int = Field(18, ge=13, le=23, description="ONNX operator set; 18 is what every runtime and quantizer takes")
    exporter: Literal["auto", "dynamo", "torchscript"] = Field(
        "auto", description="auto: torch.export first, then the TorchScript tracer"
    )
    tolerance: float = Field(
        1e-4, gt=0, description="largest difference from eager, relative to an output's largest value"
    )


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write `model.onnx`, from the first exporter whose graph is valid, loads, and agrees with eager.

    Raises OptimizerError with every exporter's reason when none does: nothing unverified is kept.
    """
    faults: list[Fault] = []
    exporters = EXPORTERS[options.exporter]
    if options.exporter == "auto" and load_record(source.path).scripted:
        exporters = ("torchscript",)  # torch.export follows Python, and there is none left to follow
    for exporter in exporters:
        fault = _attempt(exporter, source, options, ctx, out)
        if fault is None:
            ctx.note("exporter", exporter)
            ctx.note("opset", options.opset)
            return
        faults.append(fault)
        ctx.note(f"failed.{exporter}", fault.reason)
        _clear(out)
        if fault.kind == "control flow":
            break  # a tracer would write down one branch, and be right on the samples only
    raise _refusal(faults, options)


def _attempt(exporter: str, source: Artifact, options: Options, ctx: Context, out: Path) -> Fault | None:
    """Export with one exporter into `out`; None when the result holds, else why not."""
    with quiet() as chatter:
        try:
            _export(exporter, open_model(source.path), options, ctx, out)
            fault = None
        except OptimizerError as error:
            fault = Fault(exporter, "result", error.message)
        except FAULTS as error:
            fault = explain(exporter, error)
    if fault is None and exporter == "torchscript":
        fault = _frozen(chatter.getvalue(), options, ctx)
    if fault is not None:
        ctx.note(f"chatter.{exporter}", chatter.getvalue()[-2000:])
        return fault
    return _verify(exporter, ctx, out)


def _frozen(chatter: str, options: Options, ctx: Context) -> Fault | None:
    """A decision that the tracer took once and for all is accepted only from a user who asked for the tracer."""
    places = frozen_decisions(chatter)
    if not places:
        return None
    listed = "; ".join(places[:3])
    if options.exporter == "torchscript":
        ctx.warn(f"the tracer fixed {len(places)} decisions of the Python code as they fell for one input: {listed}")
        return None
    return Fault("torchscript", "control flow", f"the tracer would fix a decision of the Python code, at {listed}")


def _verify(exporter: str, ctx: Context, out: Path) -> Fault | None:
    """Valid ONNX, loadable, and equal to eager on the samples at every batch size."""
    try:
        if ctx.check is None:
            formats.read("onnx", out)
            onnx_format.inference_session(out, ctx.threads)
            return None
        check = ctx.check(out)
    except OptimizerError as error:
        return Fault(exporter, "result", error.message)
    return Fault(exporter, "result", str(check.reason)) if check.outcome == "fail" else None


def _export(exporter: str, model: TorchModel, options: Options, ctx: Context, out: Path) -> None:
    import torch

    args = onnx_export.arguments(model, ctx)
    with torch.no_grad():
        if exporter == "dynamo":
            shapes = onnx_export.dynamic_shapes(model)
            graph = onnx_export.dynamo(model.exportable(), args, shapes and (shapes,), options.opset)
        else:
            graph = _torchscript(model, args, options)
    renamed = onnx_export.save(graph, model.signature, out)
    if renamed:
        ctx.note("renamed", renamed)
    opset = graph.opset_imports.get("")
    if opset != options.opset:
        ctx.warn(f"the graph keeps opset {opset}: it could not be converted to {options.opset}")


def _torchscript(model: TorchModel, args: tuple[torch.Tensor, ...], options: Options) -> onnx_ir.Model:
    import onnx_ir
    import torch

    signature = model.signature
    with tempfile.TemporaryDirectory(prefix="optc-") as folder, native():
        file = Path(folder) / "traced.onnx"
        torch.onnx.export(
            model.exportable(),
            args,
            str(file),
            dynamo=False,
            opset_version=options.opset,
            input_names=[f"input_{i}" for i in range(len(signature.inputs))],
            output_names=[f"result_{i}" for i in range(len(signature.outputs))],
            dynamic_axes=_dynamic_axes(signature),
            verbose=False,
        )
        graph = onnx_ir.load(file)
        onnx_ir.external_data.load_to_model(graph)  # the folder is about to go
        return graph


def _dynamic_axes(signature: Signature) -> dict[str, dict[int, str]]:
    pairs = [
        *((f"input_{i}", spec) for i, spec in enumerate(signature.inputs)),
        *((f"result_{i}", spec) for i, spec in enumerate(signature.outputs)),
    ]
    axes = {name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str)} for name, spec in pairs}
    return {name: dims for name, dims in axes.items() if dims}


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refusal(faults: list[Fault], options: Options) -> OptimizerError:
    kinds = {fault.kind for fault in faults}
    if "control flow" in kinds:
        hint = (
            "express the decision with torch.where or torch.cond, give the model as a torch.jit.script archive, or, "
            "when it depends on shapes alone, set export: {exporter: torchscript}"
        )
    elif "script" in kinds:
        hint = (
            "return once, at the end of forward, and leave loops by break; or write the decisions with torch.where or "
            "torch.cond, and give the model as Python code (file.py:Class)"
        )
    elif "operator" in kinds:
        hint = "replace the operator in the model, or try another operator set: export: {opset: 20}"
    elif kinds == {"result"}:
        hint = f"outputs must agree with eager within {options.tolerance:g}; export: {{tolerance: ...}} changes that"
    else:
        hint = "see the reasons; a simpler forward exports best"
    reasons = "; ".join(str(fault) for fault in faults)
    return OptimizerError(f"the model cannot be exported to ONNX ({reasons})", hint)
