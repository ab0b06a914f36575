"""fuse: attention, GELU and normalized residual sums in the form for which the target has its fastest kernels.

ONNX Runtime finds none of the attention in graphs of torch's newer exporter by itself; onnxscript's rewriter does. The
products of a layer stay operators of their own, so that the quantizing steps after this one still find them: the
operator `Attention`, which swallows them, is left out. A target that fuses when it compiles gets the graph as it is.

A residual sum stays apart from its normalization: SkipLayerNormalization is no vector code on the CPU and takes
several times as long as both together (bench/fusion.py). ONNX Runtime would make one of them when it loads the graph,
but looks for Add only; so the sum is written as Sum.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from optimizer import formats
from optimizer.formats import onnx as onnx_format
from optimizer.formats import rewritten
from optimizer.formats.quiet import quiet
from optimizer.protocols import Context
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

VERSION = 1
CONSUMES = ("onnx", "openvino")
PRODUCES = None
TOOLS = ("onnxscript", "onnx")
DATA: tuple[str, ...] = ()
SCHEMED = True
LIMIT = 1e-4
SEARCH: tuple[dict[str, object], ...] = ({}, {"approximate_gelu": True}, {"normalization": "skip"})
DOMAIN = "com.microsoft"

Group = Literal["attention", "normalization", "gelu"]
OPERATORS: dict[Group, str] = {
    "attention": "MultiHeadAttention",
    "normalization": "LayerNormalization",
    "gelu": "Gelu",
}
# What onnxscript's rewriter raises on graphs that it does not expect, none of it documented.
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError)


class Options(Strict):
    """What is fused, and whether GELU may be approximated."""

    groups: list[Group] = Field(list(OPERATORS), min_length=1, description="what is looked for")
    normalization: Literal["apart", "skip"] = Field(
        "apart", description="a residual sum apart from its normalization, or one SkipLayerNormalization"
    )
    approximate_gelu: bool = Field(
        False, description="compute GELU by tanh (FastGelu): faster, off by up to 5e-4 of an activation"
    )

    @property
    def tolerance(self) -> float:
        """Largest difference from the source, relative to an output's largest value."""
        return 1e-2 if self.approximate_gelu else LIMIT


def scheme_tools(scheme: QuantScheme) -> tuple[str, ...]:
    """The distributions that decide the result for a target."""
    return TOOLS if scheme.fused else ()


def changes(scheme: QuantScheme) -> bool:
    """Whether this step does anything for a target."""
    return bool(scheme.fused)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the fused graph; with a warning as much of it as gives the source's results, at worst the source."""
    scheme = ctx.wanted("fuse")
    if not scheme.fused:
        ctx.note("fused", {})
        ctx.note("left alone", f"{scheme.target} fuses the graph itself when it compiles it")
        formats.hand_on(source.format, source.path, out)
        return
    wanted = [g for g, operator in OPERATORS.items() if g in options.groups and operator in scheme.fused]
    # A fault is nearly always one of the attention patterns: they are long and know few models.
    for groups in filter(None, (wanted, wanted[1:] if wanted[:1] == ["attention"] else [])):
        reason = _fuse(source, groups, options, ctx, out) or rewritten.changed(ctx, out)
        if reason is None:
            return
        ctx.warn(f"fusion of {', '.join(groups)} was taken back: {reason}")
        rewritten.discard(out)
    formats.hand_on(source.format, source.path, out)
    ctx.note("fused", {})


def _fuse(source: Artifact, groups: Sequence[Group], options: Options, ctx: Context, out: Path) -> str | None:
    """Write the graph with these groups fused; the reason when the rewriter fails."""
    import onnx_ir as ir

    before = onnx_format.load(source.path)
    try:
        with quiet():
            model = ir.serde.deserialize_model(before)
            _rewrite(model, groups, options)
            fused = ir.serde.serialize_model(model)
    except FAULTS as error:
        return rewritten.failure("onnxscript", error)
    _tidy(fused, before)
    sums = _apart(fused) if "normalization" in groups and options.normalization == "apart" else 0
    if options.approximate_gelu:
        _approximate(fused)
    onnx_format.save(fused, out)
    counts = Counter(node.op_type for node in fused.graph.node if node.domain == DOMAIN)
    counts.update({"Sum + LayerNormalization": sums} if sums else {})
    ctx.note("fused", dict(counts))
    ctx.note("nodes", {"before": len(before.graph.node), "after": len(fused.graph.node)})
    if not counts:
        ctx.warn("nothing to fuse: the model has no attention, no normalized residual sum and no GELU that is known")
    return None


def _rewrite(model: Any, groups: Sequence[Group], options: Options) -> None:
    """Apply the rewriter's fusions in place; constants are folded and shapes inferred first, as its patterns expect."""
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer
    from onnxscript.rewriter.ort_fusions import (
        erfgelu,
        gelu,
        mha,
        mha_scale,
        sdpa,
        sdpa_via_mha,
        shape_optimization,
        skip_normalization,
    )

    passes.ShapeInferencePass()(model)
    optimizer.optimize(model)
    if "attention" in groups:  # its patterns need this; a Reshape that it touched and no pattern took may be invalid
        shape_optimization.rules.apply_to_model(model)
        optimizer.optimize(model)
    if "gelu" in groups:
        erfgelu.fuse_erfgelu(model)
        gelu.fuse_gelu(model)
    if "normalization" in groups and options.normalization == "skip":
        skip_normalization.fuse_skip_layer_normalization(model)
    if "attention" in groups:
        sdpa.fuse_sdpa(model, apply_shape_inference=True)
        for step in (mha.fuse_mha1, mha.fuse_mha2, mha_scale.fuse_mha_scale, sdpa_via_mha.replace_sdpa_by_mha):
            step(model)
    optimizer.optimize(model)  # inlines what a fusion began and none finished


def _tidy(fused: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Take away outputs that nobody reads, since a kernel writes every one that is named, and keep the known types."""
    graph = fused.graph
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in graph.node:
        if node.domain == DOMAIN:
            names = [name if name in read else "" for name in node.output]
            while len(names) > 1 and not names[-1]:
                names.pop()
            node.output[:] = names
    del graph.value_info[:]
    made = {name for node in graph.node for name in node.output} - {value.name for value in graph.output}
    known = (value for value in before.graph.value_info if value.name in made and value.HasField("type"))
    graph.value_info.extend(known)


def _apart(fused: onnx.ModelProto) -> int:
    """Write residual sums before a normalization as Sum; how many there were."""
    constant = {tensor.name for tensor in fused.graph.initializer}
    made = {name: node for node in fused.graph.node for name in node.output}
    sums = [made.get(n.input[0]) for n in fused.graph.node if n.op_type == "LayerNormalization"]
    found = [node for node in sums if node is not None and node.op_type == "Add" and not constant & set(node.input)]
    for node in found:
        node.op_type = "Sum"
    return len(found)


def _approximate(fused: onnx.ModelProto) -> None:
    for node in fused.graph.node:
        if node.op_type == "Gelu":
            del node.attribute[:]
            node.op_type, node.domain = "FastGelu", DOMAIN
