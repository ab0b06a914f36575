"""Static quantization of ONNX: QuantizeLinear and DequantizeLinear where the target's scheme wants them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import selectors
from optimizer.errors import OptimizerError, unknown
from optimizer.formats import caution, nodes, onnx_ready
from optimizer.formats import onnx as onnx_format
from optimizer.formats.calibration import Calibration
from optimizer.passes.quantize_static import attention, placement, ranges, rework, writer
from optimizer.passes.quantize_static.grid import FLOAT8
from optimizer.passes.quantize_static.options import Options
from optimizer.passes.quantize_static.placement import Placement
from optimizer.passes.quantize_static.ranges import Range
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx

FLOAT8_OPSET, FLOAT8_IR = 19, 9  # from which QuantizeLinear writes floats of 8 bits, and files hold them
# Between the products of a transformer lie residual sums and attention masks that 8 bits ruin.
TRANSFORMER_OPS = ("Conv", "Gemm", "MatMul", "Gather")


@dataclass(frozen=True)
class Choice:
    """Which nodes are quantized."""

    ops: tuple[str, ...]
    left: frozenset[str]  # nodes of these types that stay in float
    kept: frozenset[str]  # of which the user asked for these
    transformer: bool

    def takes(self, node: onnx.NodeProto) -> bool:
        return node.op_type in self.ops and node.name not in self.left

    def without(self, names: set[str]) -> Choice:
        return Choice(self.ops, self.left | names, self.kept, self.transformer)


@dataclass(frozen=True)
class Ready:
    """The float model as it is to be quantized: its weights reworked, its nodes chosen, its ranges known."""

    model: onnx.ModelProto
    choice: Choice
    found: Mapping[str, Range]
    samples: int  # that the ranges were found on
    options: Options
    scheme: QuantScheme

    def place(self, scheme: QuantScheme) -> Placement:
        """Where pairs go for a scheme with this one's activations and operators."""
        ranged = {name: seen.low for name, seen in self.found.items() if seen.finite}
        return placement.place(self.model, self.choice.takes, ranged, scheme, self.options.ops or ())

    def insert(
        self, model: onnx.ModelProto, scheme: QuantScheme | None = None, learnt: writer.Learnt | None = None
    ) -> None:  # fmt: skip
        """Insert Q/DQ pairs and integer weights into `model`, this one or a copy of it, in place."""
        scheme = scheme or self.scheme
        weights = writer.Weights(scheme.by_channel(self.options.per_channel), self.options.reduce_range)
        writer.write(model, self.place(scheme), self.found, weights, scheme, learnt)
        onnx_ready.unmark(model)


def quantize(source: Artifact, options: Options, ctx: Context, scheme: QuantScheme, out: Path) -> None:
    """Write the quantized model into `out`."""
    ready = prepare(source, options, ctx, scheme.of(options.dtype))
    ready.insert(ready.model)
    conclude(ready, ready.model, ctx, out)


def prepare(source: Artifact, options: Options, ctx: Context, scheme: QuantScheme) -> Ready:
    """Everything up to the pairs themselves: what is chosen, reworked and observed, on the float model."""
    model = _prepared(source, scheme)
    choice = choose(model, options, scheme, ctx.warn)
    data = Calibration(ctx.data["calibrate"], source.signature, options.samples)
    choice = choice.without(rework.before(model, choice.takes, data, options, ctx))
    tensors = activations(model, choice, scheme)
    if not tensors:
        raise _nothing(model, choice)
    found = ranges.observe(model, tensors, data, *rework.method(options, scheme), ctx.progress)
    caution.few(data, ctx.warn)
    caution.constant(data, ctx.warn)
    choice = choice.without(_unbounded(model, choice, found, ctx.warn))
    ready = Ready(model, choice, found, len(data), options, scheme)
    rework.after(model, choice.takes, ready.insert, data, options, scheme, ctx)
    return ready


def conclude(ready: Ready, quantized: onnx.ModelProto, ctx: Context, out: Path) -> None:
    """Write the quantized model into `out` and note what it is. Raises OptimizerError where nothing was quantized."""
    counts = quantized_nodes(quantized, ready.choice)
    if not counts:
        raise _nothing(quantized, ready.choice)
    ctx.note("quantized", dict(counts))
    ctx.note("architecture", "transformer" if ready.choice.transformer else "cnn")
    ctx.note("kept", sorted(ready.choice.kept))
    ctx.note("calibration", _summary(ready))
    caution.little(quantized, ctx.warn)
    onnx_format.save(quantized, out)


def _prepared(source: Artifact, scheme: QuantScheme) -> onnx.ModelProto:
    if scheme.activation != FLOAT8:
        return onnx_ready.prepared(source)
    model = onnx_ready.prepared(source, FLOAT8_OPSET)
    model.ir_version = max(model.ir_version, FLOAT8_IR)
    return model


def choose(model: onnx.ModelProto, options: Options, scheme: QuantScheme, warn: Callable[[str], None]) -> Choice:
    """What to quantize: the scheme's operator types, narrowed by the options and by what suits a transformer."""
    graph = model.graph
    transformer = options.model == "transformer" or (
        options.model == "auto"
        and attention.attends(attention.Operation(n.op_type, list(n.input), list(n.output)) for n in graph.node)
    )
    ops = tuple(op for op in scheme.ops if not transformer or op in TRANSFORMER_OPS)
    if options.ops is not None:
        ops = _asked(options.ops, {node.op_type for node in graph.node}, scheme, warn)
    kept = selectors.select(options.keep, nodes.onnx_nodes(model), "quantize.static: keep")
    weights = {tensor.name for tensor in graph.initializer}
    strict = () if options.constant_weights_only is False else scheme.constant_weights_only
    if options.constant_weights_only:
        strict = ops
    loose = {n.name for n in graph.node if n.op_type in strict and not any(name in weights for name in n.input[1:])}
    return Choice(ops, frozenset(kept | loose), frozenset(kept), transformer)


def _asked(ops: Sequence[str], present: set[str], scheme: QuantScheme, warn: Callable[[str], None]) -> tuple[str, ...]:
    for op in ops:
        if op not in present:
            raise unknown("operator type", op, present, "quantize.static: ops")
        if op not in scheme.ops:
            warn(f"{scheme.target} has no fast 8-bit kernel for {op}; it may become slower")
    return tuple(ops)


def activations(model: onnx.ModelProto, choice: Choice, scheme: QuantScheme) -> list[str]:
    """The float tensors whose range decides a scale."""
    import onnx

    floats = {name for name, kind in onnx_ready.types(model).items() if kind == onnx.TensorProto.FLOAT}
    floats -= {tensor.name for tensor in model.graph.initializer}
    found: dict[str, None] = {}
    for node in filter(choice.takes, model.graph.node):
        outputs = () if node.op_type in scheme.float_outputs else node.output
        found.update(dict.fromkeys(name for name in (*node.input, *outputs) if name in floats))
    return list(found)


def _unbounded(
    model: onnx.ModelProto, choice: Choice, found: Mapping[str, Range], warn: Callable[[str], None]
) -> set[str]:
    """Nodes that touch a tensor without a finite range."""
    bad = {name for name, seen in found.items() if not seen.finite}
    names = {n.name for n in filter(choice.takes, model.graph.node) if bad & {*n.input, *n.output}}
    if names:
        warn(f"left in float because their values are not finite or beyond 1e30: {', '.join(sorted(names)[:8])}")
    return names


def quantized_nodes(model: onnx.ModelProto, choice: Choice) -> Counter[str]:
    """How many of the chosen nodes of each type read a dequantized tensor."""
    restored = {name for n in model.graph.node if n.op_type == "DequantizeLinear" for name in n.output}
    return Counter(n.op_type for n in filter(choice.takes, model.graph.node) if restored & set(n.input[:1]))


def _nothing(model: onnx.ModelProto, choice: Choice) -> OptimizerError:
    present = sorted({node.op_type for node in model.graph.node})
    return OptimizerError(
        f"nothing is left to quantize: of {', '.join(choice.ops)} the model holds none that is not kept in float; "
        f"it has {', '.join(present)}",
        "loosen keep, or list more operator types in ops",
    )


def _summary(ready: Ready) -> dict[str, Any]:
    """How the ranges came about, and the widest of them: where a scale is coarse, accuracy is lost first."""
    finite = {name: seen for name, seen in ready.found.items() if seen.finite}
    widest = sorted(finite, key=lambda name: finite[name].low - finite[name].high)[:5]
    return {
        "method": ready.options.method,
        "samples": ready.samples,
        "tensors": len(ready.found),
        "widest": {name: [round(finite[name].low, 4), round(finite[name].high, 4)] for name in widest},
    }
