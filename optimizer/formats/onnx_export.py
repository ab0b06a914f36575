"""PyTorch to ONNX by torch.onnx.export's newer exporter: sample arguments, free dimensions, names, files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_names, probe
from optimizer.formats.feeds import synthetic_feeds
from optimizer.formats.torch import TorchModel, as_tensor
from optimizer.protocols import Context
from optimizer.values import Signature

if TYPE_CHECKING:
    import onnx_ir
    import torch
    from torch import nn


def arguments(model: TorchModel, ctx: Context) -> tuple[torch.Tensor, ...]:
    """Arguments to trace the model with: the first sample, or made ones where there is none."""
    feeds = ctx.samples[0] if ctx.samples else synthetic_feeds(model.signature, probe.start(model.record), ctx.seed)
    return tuple(as_tensor(spec, feeds) for spec in model.signature.inputs)


def dynamo(module: nn.Module, args: tuple[torch.Tensor, ...], shapes: Any, opset: int) -> onnx_ir.Model:
    """The graph of a module that takes `args`; `shapes` are torch.export's dynamic shapes of its parameters."""
    import torch

    _look_up_anew()
    program: Any = torch.onnx.export(
        module, args, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False
    )
    _look_up_anew()
    found: onnx_ir.Model = program.model
    return found


def _look_up_anew() -> None:
    """While it exports, torch.onnx replaces how LSTM and GRU are taken apart, by a loop that fits every length.

    What such an operator has looked up before stays in its cache (torch 2.13, export/_patches.py): a second export in
    the same process would unroll the loop at the length of its sample.
    """
    import torch

    for operator in (torch.ops.aten.lstm.input, torch.ops.aten.gru.input):
        getattr(operator, "_dispatch_cache", {}).clear()


def dynamic_shapes(model: TorchModel) -> tuple[dict[int, Any], ...] | None:
    """Per input: axis -> torch.export.Dim, equal names being one dimension; None where all sizes are fixed.

    `model.exportable()` has one parameter, `*tensors`, whose dynamic shapes are a tuple around this one.
    """
    import torch

    if not model.signature.symbols():
        return None
    dims: dict[str, Any] = {}
    for name in model.signature.symbols():
        low, high = model.record.dims.get(name, (None, None))
        dims[name] = torch.export.Dim(name, min=low, max=high)
    return tuple(
        {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in model.signature.inputs
    )


def save(graph: onnx_ir.Model, signature: Signature, out: Path) -> list[str]:
    """Write `model.onnx` with the names of `signature`; returns the inner names that had to make room for them."""
    import onnx_ir

    renamed = onnx_names.apply(graph, signature)
    onnx_names.strip_metadata(graph.graph)
    weights = [v.const_value for v in graph.graph.initializers.values() if v.const_value is not None]
    large = sum(tensor.nbytes for tensor in weights) > onnx_format.EXTERNAL_ABOVE
    onnx_ir.save(graph, out / onnx_format.FILE, external_data=onnx_format.DATA if large else None)
    return renamed
