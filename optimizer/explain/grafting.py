"""Variants of a quantized ONNX graph in which chosen layers are in float, without quantizing anything again.

The candidate's Q/DQ pairs, with its scales, are put into the float graph of the baseline: all of them, some, or all
behind switches, so that one session serves every variant. A variant is what `quantize.static` makes with these layers
in `keep`: a pair goes only when every layer that asks for it is kept, as neighbours share it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optimizer.explain.matching import Match
from optimizer.explain.taps_onnx import CONVERSIONS, DEQUANTIZE, QUANTIZE
from optimizer.scheme import QuantScheme

if TYPE_CHECKING:
    import onnx

PREFIX = "optc_graft_"
# Their output takes the scale of their input: they are quantized where the input is, and never by themselves.
FOLLOWERS = frozenset((
    "Relu", "Clip", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Resize", "Slice", "Identity",
))  # fmt: skip
TWO = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div"))  # with two data inputs


@dataclass(frozen=True)
class Pair:
    """A Q/DQ pair on an activation, or the DQ of a stored weight, and who asks for it."""

    tensor: str  # of the float graph
    dequantize: str  # node of the candidate
    constant: bool
    askers: frozenset[str]  # candidate nodes; the pair goes when all of them are kept
    follows: int | None = None  # where a follower writes the tensor: the pair of what it reads
    leader: str | None = None  # that follower


@dataclass(frozen=True)
class Layer:
    """A quantized node of the candidate, named as in the float graph, which is how a recipe selects it."""

    name: str
    op: str
    node: str  # in the candidate


@dataclass(frozen=True)
class Transplant:
    """All that is needed to make variants."""

    model: onnx.ModelProto  # the candidate
    target: onnx.ModelProto  # the float graph
    pairs: tuple[Pair, ...]
    layers: tuple[Layer, ...]
    edges: Mapping[tuple[str, int], int]  # (float node, input) -> the pair that it reads through
    outputs: Mapping[str, int]  # graph output -> the pair that gives it
    lost: int  # pairs of the candidate without a counterpart, or that no layer asks for

    def active(self, kept: Set[str]) -> frozenset[int]:
        """The pairs that stay when the named layers are kept in float."""
        nodes = {layer.node for layer in self.layers if layer.name in kept}
        found: set[int] = set()
        for index, pair in enumerate(self.pairs):  # in topological order: what is followed comes first
            led = pair.follows in found and pair.leader not in nodes
            if pair.askers - nodes or led:
                found.add(index)
        return frozenset(found)


def plan(
    model: onnx.ModelProto, target: onnx.ModelProto, matched: Mapping[str, Match], scheme: QuantScheme
) -> Transplant:
    """Find pairs, layers and edges. Of the scheme: which operator types the quantizer takes, others only read along."""
    return _Planner(model, target, matched, scheme).plan()


class _Planner:
    def __init__(
        self, model: onnx.ModelProto, target: onnx.ModelProto, matched: Mapping[str, Match], scheme: QuantScheme
    ) -> None:
        self.model, self.target, self.matched, self.scheme = model, target, matched, scheme
        self.theirs = {node.name: node for node in target.graph.node}
        self.sources: dict[str, Any] = {}  # output of a DQ -> the DQ
        self.quantizers = {n.output[0]: n for n in model.graph.node if n.op_type == QUANTIZE}
        self.maker = {out: node for node in model.graph.node for out in node.output}
        self.constants = constants(model)
        self.pairs: list[Pair] = []
        self.index: dict[str, int] = {}  # output of a DQ -> its pair
        self.beside: dict[str, int] = {}  # the same, for those that do not ask for it

    def plan(self) -> Transplant:
        for node in self.model.graph.node:
            if node.op_type == DEQUANTIZE:
                self.sources[node.output[0]] = node
        tensors, askers = self._tensors(), self._askers()
        for out, node in self.sources.items():
            known = out in tensors and all(name in self.constants for name in node.input[1:] if name)
            if known and (askers[out] or self._led(out) is not None):
                self.index[out] = len(self.pairs)
                constant = node.input[0] not in self.quantizers
                self.pairs.append(Pair(tensors[out], node.name, constant, frozenset(askers[out])))
                self._beside(out, askers[out])
        self._follow()
        layers = [self._layer(n) for n in self._computing() if self._takes(n) and n.op_type not in FOLLOWERS]
        return Transplant(
            self.model,
            self.target,
            tuple(self.pairs),
            tuple(layer for layer in layers if layer),
            {edge: self._through(edge[0], out) for edge, out in self._read().items() if out in self.index},
            {v.name: self.index[v.name] for v in self.model.graph.output if v.name in self.index},
            len(self.sources) - len(self.index),
        )

    def _computing(self) -> list[Any]:
        return [node for node in self.model.graph.node if node.op_type not in CONVERSIONS]

    def _read(self) -> dict[tuple[str, int], str]:
        """(float node, input) -> the DQ output that the candidate's node reads there."""
        found = {}
        for node in self._computing():
            seen = self.matched.get(node.name)
            if seen and len(self.theirs[seen.name].input) == len(node.input):
                for place, name in enumerate(node.input):
                    if name in self.sources:
                        found[seen.name, place] = name
        return found

    def _tensors(self) -> dict[str, str]:
        """DQ output -> tensor of the float graph, as the nodes that read it say, or for an output its name."""
        found = {out: self.theirs[node].input[place] for (node, place), out in self._read().items()}
        for value in self.model.graph.output:
            if value.name in self.sources:
                found.setdefault(value.name, value.name)
        return found

    def _takes(self, node: Any) -> bool:
        """Whether the quantizer took this node: its type, and everything that is float at its data inputs converted."""
        data = node.input if node.op_type == "Concat" else node.input[: 2 if node.op_type in TWO else 1]
        if not data or not all(name in self.sources for name in data):
            return False
        return node.op_type in self.scheme.ops or any(self._stored(name) for name in node.input if name in self.sources)

    def _stored(self, name: str) -> bool:
        return self.sources[name].input[0] not in self.quantizers

    def _askers(self) -> defaultdict[str, set[str]]:
        """DQ output -> the candidate's nodes that ask for it: those that read it, and that write what it rounds."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        by_integer = defaultdict(list)
        for out, node in self.sources.items():
            by_integer[node.input[0]].append(out)
        written = {q.input[0]: by_integer[out] for out, q in self.quantizers.items()}
        for node in self._computing():
            reads = [name for name in node.input if name in self.sources]
            if self._takes(node) and node.op_type not in FOLLOWERS:
                rounds = node.op_type not in self.scheme.float_outputs
                writes = [o for out in node.output for o in written.get(out, ())] if rounds else []
            else:
                reads, writes = [name for name in reads if self._stored(name)], []
            for name in (*reads, *writes):
                found[name].add(node.name)
        return found

    def _beside(self, out: str, askers: Set[str]) -> None:
        """A second pair of the same scale for who reads a tensor that is written in 8 bits without asking for it.

        Once its writer is kept in float, these read float values, whoever else still asks for the pair.
        """
        writers = {
            n.name for n in self._computing() if n.name in askers and out not in n.input and self._writes(n, out)
        }
        if writers and writers != askers:
            self.beside[out] = len(self.pairs)
            self.pairs.append(replace(self.pairs[-1], askers=frozenset(writers)))

    def _writes(self, node: Any, out: str) -> bool:
        quantizer = self.quantizers.get(self.sources[out].input[0])
        return quantizer is not None and quantizer.input[0] in node.output

    def _through(self, reader: str, out: str) -> int:
        """The pair that a node of the float graph reads through: its own, or that of bystanders and followers."""
        asks = {self.matched[name].name for name in self.pairs[self.index[out]].askers if name in self.matched}
        return self.index[out] if reader in asks else self.beside.get(out, self.index[out])

    def _led(self, out: str) -> Any:
        """The follower that writes what a pair rounds, or None."""
        quantizer = self.quantizers.get(self.sources[out].input[0])
        writer = self.maker.get(quantizer.input[0]) if quantizer else None
        return writer if writer is not None and writer.op_type in FOLLOWERS else None

    def _follow(self) -> None:
        """Pairs behind a follower stand or fall with the pair before it."""
        for out, place in self.index.items():
            writer = self._led(out)
            if writer is not None and writer.input[0] in self.index:
                follows = self.beside.get(writer.input[0], self.index[writer.input[0]])
                self.pairs[place] = replace(self.pairs[place], follows=follows, leader=writer.name)

    def _layer(self, node: Any) -> Layer | None:
        seen = self.matched.get(node.name)
        return Layer(seen.name, node.op_type, node.name) if seen else None


def graft(plan: Transplant, active: Set[int] | None = None) -> onnx.ModelProto:
    """The float graph with the active pairs; with None all of them, each behind a boolean input (see `switch`)."""
    import onnx

    wanted = range(len(plan.pairs)) if active is None else sorted(active)
    model = onnx.ModelProto()
    model.CopyFrom(plan.target)
    _raise_opset(model, plan.model)
    graph = model.graph
    results = {value.name for value in graph.output}
    behind: dict[int, str] = {}
    before: defaultdict[str, list[Any]] = defaultdict(list)  # tensor -> the nodes to put behind its maker
    renamed: dict[str, str] = {}
    source = {node.name: node for node in plan.model.graph.node}
    initial = constants(plan.model)
    taken: dict[str, Any] = {}
    for index in wanted:
        pair = plan.pairs[index]
        given = pair.tensor
        if given in results and plan.outputs.get(given) == index:
            renamed[given] = given + "_float"
        made = _nodes(plan, index, source, initial, taken, active is None, renamed.get(given, given))
        before[given] += made
        behind[index] = made[-1].output[0]
    _rewire(plan, graph, behind, renamed, results)
    ordered = _ordered(graph, before, renamed)
    del graph.node[:]
    graph.node.extend(ordered)
    graph.initializer.extend(taken.values())
    if active is None:
        for index in wanted:
            graph.input.append(onnx.helper.make_tensor_value_info(switch(index), onnx.TensorProto.BOOL, []))
    del graph.value_info[:]
    return model


def constants(model: onnx.ModelProto) -> dict[str, Any]:
    """Name -> tensor of everything that is stored in a graph, as initializer or as Constant node."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values = [attribute.t for attribute in node.attribute if attribute.name == "value"]
            found.update(zip(node.output, values, strict=False))
    return found


def switch(index: int) -> str:
    """The boolean input that turns a pair on."""
    return f"{PREFIX}switch_{index}"


def _nodes(
    plan: Transplant,
    index: int,
    source: Mapping[str, Any],
    initial: Mapping[str, Any],
    taken: dict[str, Any],
    switched: bool,
    tensor: str,
) -> list[Any]:
    """Q and DQ (or the DQ of a stored weight) with the candidate's constants, and the switch behind them."""
    import onnx

    pair = plan.pairs[index]
    dequantize = source[pair.dequantize]
    parameters = [_constant(name, initial, taken) for name in dequantize.input[1:]]
    attributes = [a for a in dequantize.attribute if a.name == "axis"]
    made = []
    if pair.constant:
        rounded = _constant(dequantize.input[0], initial, taken)
    else:
        rounded = f"{PREFIX}q_{index}"
        made.append(onnx.helper.make_node(QUANTIZE, [tensor, *parameters], [rounded], name=rounded))
        made[-1].attribute.extend(attributes)
    out = f"{PREFIX}dq_{index}"
    made.append(onnx.helper.make_node(DEQUANTIZE, [rounded, *parameters], [out], name=out))
    made[-1].attribute.extend(attributes)
    if switched:
        chosen = f"{PREFIX}where_{index}"
        made.append(onnx.helper.make_node("Where", [switch(index), out, tensor], [chosen], name=chosen))
    return made


def _constant(name: str, initial: Mapping[str, Any], taken: dict[str, Any]) -> str:
    """The candidate's constant under a name that the float graph does not have."""
    import onnx

    if name and name not in taken:
        copy = onnx.TensorProto()
        copy.CopyFrom(initial[name])
        copy.name = PREFIX + name
        taken[name] = copy
    return PREFIX + name if name else ""


def _rewire(
    plan: Transplant, graph: Any, behind: Mapping[int, str], renamed: Mapping[str, str], results: Set[str]
) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            through = plan.edges.get((node.name, place))
            if through is not None and through in behind:
                node.input[place] = behind[through]
            elif name in renamed:
                node.input[place] = renamed[name]
        for place, name in enumerate(node.output):
            node.output[place] = renamed.get(name, name)
    import onnx

    for name in results & renamed.keys():
        last = behind[plan.outputs[name]]
        graph.node.append(onnx.helper.make_node("Identity", [last], [name], name=f"{PREFIX}out_{name}"))


def _ordered(graph: Any, before: Mapping[str, Sequence[Any]], renamed: Mapping[str, str]) -> list[Any]:
    """All nodes, each inserted group behind the node that makes its tensor."""
    made_by = {out for node in graph.node for out in node.output}
    waiting = {renamed.get(tensor, tensor): nodes for tensor, nodes in before.items()}
    found: list[Any] = [n for tensor, nodes in waiting.items() if tensor not in made_by for n in nodes]
    for node in graph.node:
        found.append(node)
        for out in node.output:
            found.extend(waiting.get(out, ()))
    return found


def _raise_opset(model: onnx.ModelProto, other: onnx.ModelProto) -> None:
    """The quantized graph may need a later opset, or a domain that the float graph does not import."""
    known = {entry.domain for entry in model.opset_import}
    model.opset_import.extend(entry for entry in other.opset_import if entry.domain not in known)
