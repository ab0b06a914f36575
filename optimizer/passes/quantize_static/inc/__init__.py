"""quantize.inc: weights and activations to 8 bits in PyTorch, by Intel Neural Compressor, exported with its Q/DQ pairs.

Neural Compressor 3 writes no ONNX itself. Its static quantization (PT2E, pairs placed by torchao's quantizer for x86)
leaves a program with quantize and dequantize operators, which torch.onnx.export takes. Pairs stay where they were
placed; only the constants of quantized layers are written as the target's kernels want them (`settle.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import caution, nodes, onnx_export
from optimizer.formats import onnx as onnx_format
from optimizer.formats.calibration import Calibration
from optimizer.formats.export_faults import FAULTS, explain
from optimizer.formats.quiet import quiet
from optimizer.formats.torch import TorchModel, as_array, as_tensor, open_model
from optimizer.passes.quantize_static.inc import settle
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme, quantized_before
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx_ir
    import torch
    from torch import nn

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "onnx"
TOOLS = ("torch", "onnx", "onnxscript", "neural-compressor-pt", "torchao")
DATA = ("calibrate",)
SCHEMED = True
LIMIT = None
SEARCH: tuple[dict[str, object], ...] = ({}, {"method": "kl"})
LIMIT_APART = 0.02  # of an output's largest value: a few steps of 8 bits


class Options(Strict):
    """What Neural Compressor is told. Types and symmetry of activations are the target's."""

    method: Literal["minmax", "kl"] = Field(
        "minmax", description="ranges of activations; minmax: moving average of extremes; kl: by histogram"
    )
    samples: int = Field(300, ge=1, description="calibration examples, or all when there are fewer")
    keep: list[str] = Field(
        [], description="modules left in float: names with * and ?, /regular expressions/, op:Class"
    )
    opset: int = Field(18, ge=13, le=23, description="ONNX operator set")


def refuse(options: Options, scheme: QuantScheme) -> str | None:  # noqa: ARG001  # the planner's signature
    """Why this step cannot be done for a target, or None."""
    if scheme.format == "torch":
        return f"quantize.inc exports what it has quantized, {scheme.target} runs the module itself"
    if "int8" not in scheme.static:
        return f"{scheme.target} has no kernels for static int8; leave this step out, half makes it small"
    return None


def refuse_after(before: Sequence[str], scheme: QuantScheme) -> str | None:  # noqa: ARG001  # the planner's signature
    """Why this step cannot follow the steps `before` it, or None."""
    return quantized_before(before)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write `model.onnx` with Q/DQ pairs where Neural Compressor puts them.

    Raises OptimizerError for modules that it cannot take, and where the graph is not what it computes in PyTorch.
    """
    import onnx_ir

    scheme = ctx.wanted("quantize.inc")
    model = open_model(source.path)
    if model.record.scripted:
        raise OptimizerError(
            "quantize.inc reads the module's program by torch.export, and a TorchScript archive has none",
            "give the module's code or a .pt2, or use quantize.static, which works on the exported graph",
        )
    data = Calibration(ctx.data["calibrate"], source.signature, options.samples)
    caution.few(data, ctx.warn)
    caution.constant(data, ctx.warn)
    kept = _kept(model, options)
    args = onnx_export.arguments(model, ctx)
    quantized = _quantized(model, args, data, _config(options, kept, scheme), ctx)
    graph = _exported(quantized, model, args, options)
    counts = settle.settle(graph, scheme)
    if not counts:
        raise OptimizerError(
            "Neural Compressor quantized nothing in this model: it takes convolutions and linear layers",
            "loosen keep, or use quantize.static",
        )
    onnx_export.save(graph, model.signature, out)
    _agree(quantized, model, ctx, out)
    ctx.note("quantized", dict(counts))
    ctx.note("kept", sorted(kept))
    caution.little(onnx_ir.to_proto(graph), ctx.warn)


def _kept(model: TorchModel, options: Options) -> set[str]:
    return selectors.select(options.keep, nodes.torch_nodes(model.module), "quantize.inc: keep")


def _config(options: Options, kept: set[str], scheme: QuantScheme) -> Any:
    """Neural Compressor's configuration: 8 bits as the target has them, and float for the modules `kept`."""
    with quiet():  # it logs when it is imported
        from neural_compressor.torch.quantization import StaticQuantConfig

    config = StaticQuantConfig(
        act_dtype=scheme.activation, act_sym=scheme.activation_symmetric, act_algo=options.method,
        w_dtype="int8", w_sym=True, w_granularity="per_channel",
    )  # fmt: skip
    for name in sorted(kept):
        config.set_local(name, StaticQuantConfig(act_dtype="fp32", w_dtype="fp32"))
    return config


def _quantized(
    model: TorchModel, args: tuple[torch.Tensor, ...], data: Calibration, config: Any, ctx: Context
) -> nn.Module:
    """The program with quantize and dequantize operators, after it has seen the calibration data."""
    import torch

    with quiet(), torch.no_grad():
        from neural_compressor.torch.quantization import convert, prepare

        try:
            shapes = onnx_export.dynamic_shapes(model)
            program = torch.export.export(model.exportable(), args, dynamic_shapes=shapes and (shapes,)).module()
            # As neural_compressor.torch.export marks it; that one traces bytecode first, and modules lose their names.
            program._exported, program.dynamic_shapes = True, shapes
            program.graph.eliminate_dead_code()  # layers that no output needs stop torchao's quantizer (0.18)
            program.recompile()
            observed = prepare(program, config)
            for done, feeds in enumerate(data.feeds(), start=1):
                observed(*(as_tensor(spec, feeds) for spec in model.signature.inputs))
                ctx.progress(min(done, len(data)), len(data))
            return convert(observed)
        except FAULTS as error:
            raise _untaken(explain("torch.export", error).reason) from None


def _untaken(reason: str) -> OptimizerError:
    ranged = "give that dimension its range, model: {dims: {NAME: [least, largest]}}; or " if "range" in reason else ""
    return OptimizerError(
        f"Neural Compressor cannot take this model: {' '.join(reason.split())[:300]}",
        f"{ranged}use quantize.static, which works on the exported graph",
    )


def _exported(
    quantized: nn.Module, model: TorchModel, args: tuple[torch.Tensor, ...], options: Options
) -> onnx_ir.Model:
    import torch

    try:
        with quiet(), torch.no_grad():
            return onnx_export.dynamo(quantized, args, onnx_export.dynamic_shapes(model), options.opset)
    except FAULTS as error:
        raise _untaken(f"its program cannot be exported to ONNX, {explain('dynamo', error).reason}") from None


def _agree(quantized: nn.Module, model: TorchModel, ctx: Context, out: Path) -> None:
    """Note how far the graph's outputs lie from the quantized program's in PyTorch, relative to their largest value.

    Where a rounding falls the other way, the layers behind it round anew: two exact runs of one quantized model may lie
    as far from each other as either from the float model. Raises OptimizerError for more than twice that.
    """
    import torch

    session = onnx_format.inference_session(out, ctx.threads, "none")
    names = [spec.name for spec in model.signature.outputs]
    apart = moved = 0.0
    for feeds in ctx.samples:
        found = session.run(names, {spec.name: feeds[spec.name] for spec in model.signature.inputs})
        with torch.no_grad():
            computed = quantized(*(as_tensor(spec, feeds) for spec in model.signature.inputs))
        for one, other, real in zip(found, computed, model(feeds).values(), strict=True):
            apart = max(apart, _distance(one, as_array(other)))
            moved = max(moved, _distance(as_array(other), real))
    ctx.note("apart", {"onnx from torch": apart, "quantized from float": moved})
    if not apart <= max(LIMIT_APART, 2 * moved):
        raise OptimizerError(
            "the exported graph is not what Neural Compressor quantized: "
            f"its outputs lie {apart:.2g} of the largest away, quantization moved them by {moved:.2g}",
            "use quantize.static, which works on the exported graph",
        )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest value of `other`."""
    extent = max(float(np.abs(other).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    return float(np.abs(one.astype(np.float64) - other).max(initial=0.0)) / extent
