"""Weight-only quantization of ONNX: which layers, decided by which algorithm, written for ONNX Runtime."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import nodes, onnx_ready
from optimizer.formats import onnx as onnx_format
from optimizer.formats.layers import Graph
from optimizer.passes.quantize_weights import decide, layers, rewrite
from optimizer.passes.quantize_weights.decide import Decided
from optimizer.passes.quantize_weights.grid import Grid
from optimizer.passes.quantize_weights.layers import Layer
from optimizer.passes.quantize_weights.options import Options
from optimizer.passes.quantize_weights.record import Row, record
from optimizer.protocols import Context
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

# On all-MiniLM-L6-v2 (round to nearest, SICK): groups of 32 leave 13.2 dB between signal and error at 0.160 of the
# bytes, groups of 128 10.8 dB at 0.134. Products in int8 leave the same 13.2 dB and take less time.
GROUP = 32
ACCURACY_LEVEL = 4


def quantize(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the model with integer weights into `out`."""
    model = onnx_ready.prepared(source)
    onnx_ready.unmark(model)
    kept = selectors.select(options.keep, nodes.onnx_nodes(model), "quantize.weights: keep")
    chosen = _chosen(model, kept, options, ctx.warn)
    steps = Grid(options.bits, int(options.group or GROUP), options.symmetric)
    edits: defaultdict[str, list[rewrite.Edit]] = defaultdict(list)
    whole = sum(4 * math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == layers.FLOAT)
    rows: list[Row] = []
    graph = Graph(model)
    for decided in decide.decided(model, chosen, steps, options, ctx, source):
        rows += _edit(graph, decided, options, edits)
    rewrite.apply(model, edits)
    onnx_format.save(model, out)
    ctx.note("kept", sorted(kept))
    record(ctx, rows, options, steps.group, whole)


def _chosen(model: onnx.ModelProto, kept: set[str], options: Options, warn: Callable[[str], None]) -> list[Layer]:
    """The layers to quantize: with finite weights, and not kept."""
    every = layers.found(model, options.embeddings)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    able = [layer for layer in every if layer.name not in kept]
    infinite = [layer.name for layer in able if not np.isfinite(layers.weights(tensors[layer.weight], layer)).all()]
    if infinite:
        warn(f"left in float because their weights are not finite: {', '.join(infinite[:8])}")
    odd = [n.name for n in able if n.table and tensors[n.weight].dims[1] * options.bits % 8]
    if odd:
        warn(f"left in float because rows of an odd length cannot be packed: {', '.join(odd[:8])}")
    found = [layer for layer in able if layer.name not in {*infinite, *odd}]
    if not found:
        raise _nothing(model, every)
    return found


def _nothing(model: onnx.ModelProto, every: Sequence[Layer]) -> OptimizerError:
    present = ", ".join(sorted({node.op_type for node in model.graph.node}))
    reason = (
        f"all {len(every)} layers that could be are kept in float"
        if every
        else f"the model has no MatMul or Gemm with a constant float32 weight; it has {present}"
    )
    return OptimizerError(
        f"no weights are left to quantize: {reason}",
        "loosen keep; embeddings: true takes tables, too; a convolutional network needs quantize.static",
    )


def _edit(graph: Graph, decided: Decided, options: Options, edits: defaultdict[str, list[rewrite.Edit]]) -> list[Row]:
    """Add the edits of some layers, and say what they changed."""
    source, extra = decided.layers[0].input, 0
    if decided.factors is not None:
        place, edit, source = rewrite.divided(graph, decided.layers, decided.factors)
        edits[place].append(edit)
        extra = edit.size if edit.inner else 0  # a layer normalization keeps its size
    by_name = {node.name: node for node in graph.model.graph.node}
    level = ACCURACY_LEVEL if options.accuracy_level is None else options.accuracy_level
    rows = []
    for layer, found in zip(decided.layers, decided.found, strict=True):
        node = by_name[layer.name]
        edit = rewrite.lookup(node, found) if layer.table else rewrite.product(node, source, found, level)
        edits[layer.name].append(edit)
        shape = (len(found.codes), found.width)
        rows.append(Row(layer.name, layer.op, shape, 4 * math.prod(shape), edit.size + extra))
        extra = 0
    return rows
