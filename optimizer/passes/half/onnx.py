"""16-bit floats in ONNX: constants and values as far as they fit, casts between what is narrow and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import nodes, onnx_ready
from optimizer.formats import onnx as onnx_format
from optimizer.passes.half import coarse, guard, masks, pairs
from optimizer.passes.half.assignment import FLOAT, Assignment, assign, floats
from optimizer.passes.half.convert import converted
from optimizer.passes.half.numbers import BFLOAT16, FLOAT16, HALVES, Half
from optimizer.passes.half.options import Options
from optimizer.passes.half.record import record
from optimizer.passes.half.retyped import retyped
from optimizer.passes.half.samples import samples
from optimizer.protocols import Context
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

LEAST = {FLOAT16: onnx_ready.PER_CHANNEL_OPSET, BFLOAT16: 22}  # opsets; from 22 on convolutions take bfloat16
CRASHES = "ONNX Runtime crashes when it fuses a transpose and a product like these in float16"


def convert(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the model in 16 bits wherever neither `keep` nor the guard is against it."""
    half = HALVES[options.dtype]
    mixed = onnx_format.quantized(source.path)
    model = onnx_ready.prepared(source, LEAST[half] if not mixed else pairs.OPSETS[half], paired=mixed)
    onnx_ready.unmark(model)
    pairs.snap(model, half)
    if not any(tensor.data_type == FLOAT for tensor in model.graph.initializer):
        raise OptimizerError("the model has no float32 weights", "start from the float32 model")
    kept = selectors.select(options.keep, nodes.onnx_nodes(model), "half: keep")
    known, masked = floats(model), masks.of_onnx(model)
    wide = _staying(model, source, known, masked, kept, options, ctx)
    assigned = assign(model, known, {*kept, *wide}, half)
    if not _constants(model, assigned):
        raise _nothing(half, wide)
    write = converted if half is FLOAT16 and not mixed else retyped
    onnx_format.save(write(model, assigned, masked), out)
    onnx_format.inference_session(out, 1, "none")  # types are checked here
    ctx.note("kept", sorted(kept))


def _staying(
    model: onnx.ModelProto,
    source: Artifact,
    known: frozenset[str],
    masked: set[str],
    kept: set[str],
    options: Options,
    ctx: Context,
) -> dict[str, str]:
    """Node -> why it stays in float32, beside those that are `kept`: what the guard finds, and the pairs in front."""
    half = HALVES[options.dtype]
    found = dict.fromkeys(sorted(_crashing(model) - kept), CRASHES) if half is FLOAT16 else {}
    if not options.guard:
        return found | pairs.together(model, {*kept, *found})
    enough = min(options.samples, coarse.SAMPLES) if half is BFLOAT16 else options.samples
    given = samples(source, options.model_copy(update={"samples": enough}), ctx)
    look, stays = (given.look, given.progress), {*kept, *found}
    if half is BFLOAT16:
        found |= coarse.reasons(model, known, masked, stays, *look, ctx.warn)
    else:
        found |= guard.reasons(model, known, masked, stays, options.margin, *look)
    found |= pairs.together(model, {*kept, *found})
    record(ctx, found, given, options, len(model.graph.node))
    return found


def _crashing(model: onnx.ModelProto) -> set[str]:
    """Products with a constant behind a transpose that moves the batch before the last axis, and that transpose.

    Such as a linear layer behind a recurrent one with the batch first. ONNX Runtime (seen: 1.32, CPU) fuses the two,
    and a segmentation fault follows where either is float16. Whatever target the model is for, ONNX Runtime computes
    what its outputs should be. Other orders, second factors, and products of two activations run (tried one by one).
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    moved: dict[str, str] = {}
    found: set[str] = set()
    for node in model.graph.node:
        if all(name in constant for name in node.input if name):
            constant |= {*node.output}
        elif node.op_type == "Transpose" and _moves_batch(node):
            moved[node.output[0]] = node.name
        elif node.op_type == "MatMul" and node.input[0] in moved and node.input[1] in constant:
            found |= {node.name, moved[node.input[0]]}
    return found


def _moves_batch(node: onnx.NodeProto) -> bool:
    """Whether a transpose puts the first axis before the last one and leaves the others in their order."""
    order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])
    return len(order) > 2 and order == [*range(1, len(order) - 1), 0, len(order) - 1]


def _constants(model: onnx.ModelProto, assigned: Assignment) -> bool:
    """Whether any constant becomes narrow."""
    names = {tensor.name for tensor in model.graph.initializer}
    graph: Any = model.graph.node
    return any(graph[index].input[place] in names for index, places in assigned.reads.items() for place in places)


def _nothing(half: Half, wide: dict[str, str]) -> OptimizerError:
    reason = next((f", such as {name}: {why}" for name, why in wide.items()), "")
    return OptimizerError(
        f"no weight can be {half.name}: every node that reads one stays in float32{reason}",
        "loosen keep or margin, or leave this step out for this model",
    )
