"""simplify: onnx -> onnx through onnxslim, taken back when the result is not the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from optimizer import formats
from optimizer.formats import onnx as onnx_format
from optimizer.formats import rewritten
from optimizer.formats.quiet import quiet
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

VERSION = 2
CONSUMES = ("onnx",)
PRODUCES = "onnx"
TOOLS = ("onnxslim", "onnx")
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 1e-4

# What onnxslim raises on graphs that it does not expect, none of them documented.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, OSError,
          NameError)  # fmt: skip


class Options(Strict):
    """How far the simplified model may lie from its source."""

    tolerance: float = Field(
        1e-4, gt=0, description="largest difference from the source, relative to an output's largest value"
    )


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:  # noqa: ARG001  # read by the executor
    """Write a simplified `model.onnx`; the source's own files, with a warning, when that fails or changes results."""
    reason = _simplify(source.path, ctx, out) or rewritten.changed(ctx, out)
    if reason is None:
        return
    ctx.warn(f"simplification was taken back: {reason}")
    ctx.note("rolled_back", reason)
    rewritten.discard(out)
    formats.hand_on("onnx", source.path, out)


def _simplify(source: Path, ctx: Context, out: Path) -> str | None:
    """Simplify into `out`; the reason when that cannot be done."""
    import onnx
    import onnxslim

    try:
        model = onnx_format.load(source)
        before = len(model.graph.node)
        with quiet():
            model = onnxslim.slim(model, no_shape_infer=_shaped(model))
        onnx_format.save(model, out)
    except FAULTS as error:
        return rewritten.failure("onnxslim", error)
    except onnx.checker.ValidationError as error:  # has no base that the others share
        return rewritten.failure("onnxslim", error)
    ctx.note("nodes", {"before": before, "after": len(model.graph.node)})
    return None


def _shaped(model: onnx.ModelProto) -> bool:
    """Whether every tensor has a shape already, as after the newer exporter; inferring them is most of the work."""
    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.output) if value.type.tensor_type.HasField("shape")}
    return all(name in known for node in graph.node for name in node.output if name)
