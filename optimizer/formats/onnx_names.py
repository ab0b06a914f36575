"""Gives an exported graph the names of a signature, and every value inside a name of its own (SSA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError
from optimizer.values import Signature, TensorSpec

if TYPE_CHECKING:
    import onnx_ir

KEPT_METADATA = "pkg.torch.onnx.name_scopes"  # the module that a node comes from; the rest are local paths and code


def apply(model: onnx_ir.Model, signature: Signature) -> list[str]:
    """Rename inputs, outputs and their free dimensions in place; returns the inner values that had to give way.

    torch.onnx.export writes an output's name over its value without looking whether another node defines that
    name already, and the graph is then no longer SSA. Raises OptimizerError when the graph's inputs or outputs
    are not those of the signature, or when a free dimension became a constant.
    """
    graph = model.graph
    _match("inputs", graph.inputs, signature.inputs)
    _match("outputs", graph.outputs, signature.outputs)
    _separate_outputs(graph)
    dims = _dim_names(graph.inputs, signature.inputs)
    for value, spec in [*zip(graph.inputs, signature.inputs, strict=True)]:
        value.name = spec.name
        _set_dims(value, spec, dims)
    _free(graph, {spec.name for spec in signature.outputs})
    for value, spec in zip(graph.outputs, signature.outputs, strict=True):
        value.name = spec.name
        _set_dims(value, spec, dims)
    return make_unique(graph)


def make_unique(graph: onnx_ir.Graph) -> list[str]:
    """Rename inner values until every name is defined once; inputs and outputs keep theirs. Returns old names."""
    fixed = {id(v) for v in (*graph.inputs, *graph.outputs)}
    values = list(_values(graph))
    seen = {str(v.name) for v in values if id(v) in fixed}
    taken = seen | {str(v.name) for v in values}
    renamed: list[str] = []
    for value in values:
        if id(value) in fixed or not value.name:
            continue
        if value.name in seen:
            renamed.append(str(value.name))
            value.name = claim(str(value.name), taken)
        seen.add(str(value.name))
    return renamed


def strip_metadata(graph: onnx_ir.Graph) -> None:
    """Remove what the exporter wrote about the user's files and code."""
    import onnx_ir

    for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
        kept = node.metadata_props.get(KEPT_METADATA)
        node.metadata_props.clear()
        if kept:
            node.metadata_props[KEPT_METADATA] = kept
        node.doc_string = None
    for value in _values(graph):
        value.metadata_props.clear()


def _match(kind: str, values: Any, specs: tuple[TensorSpec, ...]) -> None:
    if len(values) != len(specs):
        names = ", ".join(str(v.name) for v in values)
        raise OptimizerError(f"the exported graph has {len(values)} {kind} ({names}), the model has {len(specs)}")


def _values(graph: onnx_ir.Graph) -> Iterator[Any]:
    """Every value that the graph and its subgraphs define, each once."""
    import onnx_ir

    seen: set[int] = set()
    nested: list[Any] = []
    nodes = onnx_ir.traversal.RecursiveGraphIterator(graph, enter_graph=nested.append)
    outputs = [value for node in nodes for value in node.outputs]
    graphs = [graph, *(g for g in nested if g is not graph)]
    for value in [*(v for g in graphs for v in (*g.inputs, *g.initializers.values())), *outputs]:
        if id(value) not in seen:
            seen.add(id(value))
            yield value


def _separate_outputs(graph: onnx_ir.Graph) -> None:
    """An output that is also an input, a weight, or another output gets a node of its own."""
    import onnx_ir

    seen = {id(value) for value in graph.inputs}
    for index, value in enumerate(graph.outputs):
        if id(value) in seen or value.is_initializer():
            node = onnx_ir.node("Identity", inputs=[value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        seen.add(id(graph.outputs[index]))


def _dim_names(values: Any, specs: Iterable[TensorSpec]) -> dict[str, str]:
    """The exporter's name of each free input dimension -> its name in the signature."""
    found: dict[str, str] = {}
    for value, spec in zip(values, specs, strict=True):
        for axis, (dim, wanted) in enumerate(zip(value.shape or (), spec.shape, strict=True)):
            if isinstance(wanted, str) and isinstance(dim, int):
                raise OptimizerError(
                    f"the free dimension '{wanted}' of the input '{spec.name}' (axis {axis}) was baked in as {dim}",
                    f"make forward work for every size, or write {dim} into model.inputs",
                )
            if isinstance(wanted, str) and getattr(dim, "value", None):
                found[str(dim.value)] = wanted
    return found


def _set_dims(value: Any, spec: TensorSpec, names: dict[str, str]) -> None:
    """Free dimensions are called as in the signature; sizes that the exporter knows stay."""
    import onnx_ir

    own = list(value.shape) if value.shape is not None else [None] * len(spec.shape)
    dims = [_dim(d, wanted, names) for d, wanted in zip(own, spec.shape, strict=False)]
    if len(own) != len(spec.shape):
        raise OptimizerError(f"'{spec.name}' has {len(own)} dimensions in the exported graph, the model gives {spec}")
    value.shape = onnx_ir.Shape(dims)


def _dim(own: Any, wanted: int | str, names: dict[str, str]) -> int | str:
    name = names.get(str(getattr(own, "value", own)))
    return name if isinstance(wanted, str) and name == wanted else wanted


def _free(graph: onnx_ir.Graph, names: set[str]) -> None:
    """Let go of initializers that carry an output's name: two of one name cannot be registered."""
    taken = {str(v.name) for v in _values(graph)} | names
    for value in list(graph.initializers.values()):
        if value.name in names:
            value.name = claim(str(value.name), taken)


def claim(name: str, taken: set[str]) -> str:
    """The name, with the first free number behind it where it is taken; it is taken from then on."""
    found, number = name, 0
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    taken.add(found)
    return found
