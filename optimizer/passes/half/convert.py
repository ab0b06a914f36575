"""Has onnxconverter-common write an assignment into a graph, and mends what it leaves.

The library converts whole nodes by the types that `value_info` states, and puts a cast on every edge between float16
and float32. Three things it does not see are kept out of its sight: constants that stay float32, the graph's outputs,
and the values that bodies of loops and branches read. What it wrote is tidied up after it, since it takes a float32
value through float16 where two nodes of float32 follow each other.
"""

from __future__ import annotations

import copy
import graphlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError, missing_extra
from optimizer.formats import onnx_ready
from optimizer.formats.nodes import captured, cast_type
from optimizer.formats.onnx_names import claim
from optimizer.formats.quiet import quiet
from optimizer.passes.half import masks, numbers
from optimizer.passes.half.assignment import FLOAT, Assignment, casts

if TYPE_CHECKING:
    import onnx

HELD = "optc_held_"


def converted(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> onnx.ModelProto:
    """A copy of the model that computes in float16 as assigned; `masked`: values that reach nothing but a softmax.

    Raises OptimizerError where the library cannot convert the graph.
    """
    model = copy.deepcopy(model)
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    outputs = [value for value in graph.output if value.name in made and value.name in assigned.floats]
    fixed = {value.name for value in outputs} | ({*captured(graph.node)} & made & assigned.floats)
    wide = [node.name for index, node in enumerate(graph.node) if not assigned.narrow(index) or casts(node)]
    order = [value.name for value in graph.output]

    _name_outputs(graph)
    hidden = _part_constants(model, assigned, masked)
    _state_types(graph, assigned.floats)
    _replace(graph.output, [value for value in graph.output if value not in outputs])
    _hold(graph, fixed)
    model = _converted(model, wide)
    graph = model.graph
    graph.initializer.extend(hidden)
    _give(graph, fixed)
    graph.output.extend(outputs)
    _replace(graph.output, sorted(graph.output, key=lambda value: order.index(value.name)))
    _tidy(model)
    return model


def _converted(model: onnx.ModelProto, wide: list[str]) -> onnx.ModelProto:
    """What the library makes of a graph, all of whose constants become float16."""
    try:
        from onnxconverter_common import float16
    except ImportError:
        raise missing_extra("onnxconverter-common", "torch", "half") from None
    with quiet():
        try:
            return float16.convert_float_to_float16(
                model,
                min_positive_val=numbers.SMALLEST,
                max_finite_val=numbers.LARGEST,
                keep_io_types=True,
                disable_shape_infer=True,
                op_block_list=[],
                node_block_list=wide,
                check_fp16_ready=False,  # which looks for any float16 at all
            )
        except (AttributeError, ValueError) as error:  # how it fails on graphs that it does not understand
            raise OptimizerError(
                f"onnxconverter-common cannot convert the model to fp16: {' '.join(str(error).split())[:300]}",
                "leave this step out, or start from a simplified graph",
            ) from error


def _name_outputs(graph: onnx.GraphProto) -> None:
    """A name for each output that nobody wanted: the library's sorting takes all without one for the same value."""
    for node in graph.node:
        while node.output and not node.output[-1]:
            del node.output[-1]
        for place, name in enumerate(node.output):
            if not name:
                node.output[place] = f"{node.name}_output{place}"
        # The library takes the first attribute of a cast for its type.
        _replace(node.attribute, sorted(node.attribute, key=lambda attribute: attribute.name != "to"))


def _part_constants(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> list[onnx.TensorProto]:
    """Take the constants out of the graph that are read as float32; narrow nodes that read one get another."""
    import onnx

    graph = model.graph
    wide = {*captured(graph.node), *(value.name for value in graph.output)}
    narrow: set[str] = set()
    for index, node in enumerate(graph.node):
        (narrow if assigned.narrow(index) else wide).update(node.input)
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    hidden = [tensor for tensor in graph.initializer if tensor.name in wide]
    shared: dict[str, str] = {}
    for tensor in list(graph.initializer):
        if tensor.data_type != FLOAT or tensor.name not in narrow:
            continue
        if tensor.name in masked:
            own = masks.saturated(onnx.numpy_helper.to_array(tensor))
        elif tensor.name in wide:
            own = onnx.numpy_helper.to_array(tensor)
        else:
            continue
        if tensor.name in wide:
            shared[tensor.name] = claim(f"{tensor.name}_float16", taken)
            graph.initializer.append(onnx.numpy_helper.from_array(own, shared[tensor.name]))
        else:
            tensor.CopyFrom(onnx.numpy_helper.from_array(own, tensor.name))
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in wide])
    for index, node in enumerate(graph.node):
        if assigned.narrow(index):
            node.input[:] = [shared.get(name, name) for name in node.input]
    return hidden


def _state_types(graph: onnx.GraphProto, floats: frozenset[str]) -> None:
    """A `value_info` for each float32 value that a node gives, by which the library goes, and none for constants."""
    import onnx

    made = {name for node in graph.node for name in node.output if name in floats}
    stated = {v.name: v for v in (*graph.output, *graph.value_info)}
    others = [value for value in graph.value_info if value.name not in floats]
    for name in sorted(made):
        value = onnx.ValueInfoProto()
        value.CopyFrom(stated.get(name, onnx.ValueInfoProto(name=name)))
        value.type.tensor_type.elem_type = FLOAT
        others.append(value)
    _replace(graph.value_info, others)


def _hold(graph: onnx.GraphProto, names: set[str]) -> None:
    """A reader for each of these values, so that the library does not shorten them away."""
    import onnx

    graph.node.extend(onnx.helper.make_node("Identity", [name], [HELD + name], HELD + name) for name in sorted(names))


def _give(graph: onnx.GraphProto, names: set[str]) -> None:
    """Let values that became float16 be float32 again under their own names."""
    import onnx

    _replace(graph.node, [node for node in graph.node if not node.name.startswith(HELD)])
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    halves = {name: claim(f"{name}_float16", taken) for name in sorted(names)}
    for node in graph.node:
        node.input[:] = [halves.get(name, name) for name in node.input]
        node.output[:] = [halves.get(name, name) for name in node.output]
    for value in graph.value_info:
        value.name = halves.get(value.name, value.name)
    for name, half in halves.items():
        graph.node.append(onnx.helper.make_node("Cast", [half], [name], f"{name}_cast_to_float32", to=FLOAT))


def _tidy(model: onnx.ModelProto) -> None:
    """Casts lead straight from the value that they begin with, once for all its readers; nodes in order."""
    graph = model.graph
    lasting = {*captured(graph.node), *(value.name for value in graph.output)}
    types = onnx_ready.types(model)
    makers: dict[str, onnx.NodeProto] = {}
    known: dict[tuple[str, int], str] = {}
    renamed: dict[str, str] = {}
    found = _sorted(graph.node)
    for node in found:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        makers |= dict.fromkeys(node.output, node)
        kind = cast_type(node)
        if kind not in (FLOAT, numbers.FLOAT16.code):
            continue
        before = makers.get(node.input[0])
        if before is not None and cast_type(before) in (FLOAT, numbers.FLOAT16.code):
            node.input[0] = before.input[0]
        (source,), (result,) = node.input, node.output
        same = source if types.get(source) == kind else known.setdefault((source, kind), result)
        if same != result and result not in lasting:
            renamed[result] = same
        elif same == source:
            node.op_type = "Identity"
            del node.attribute[:]
    read, kept = {*lasting}, []
    for node in reversed(found):
        if node.op_type != "Cast" or node.output[0] in read:
            kept.append(node)
            read.update(node.input)
    _replace(graph.node, reversed(kept))
    given = {name for node in kept for name in node.output}
    _replace(graph.value_info, [value for value in graph.value_info if value.name in given])


def _sorted(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes in topological order, what bodies read included, which the library's own order leaves out."""
    every = list(nodes)
    makers = {name: place for place, node in enumerate(every) for name in node.output}
    before = {
        place: {makers[name] for name in (*node.input, *captured([node])) if name in makers}
        for place, node in enumerate(every)
    }
    return [every[place] for place in graphlib.TopologicalSorter(before).static_order()]


def _replace(field: Any, values: Iterable[Any]) -> None:
    """Give a repeated field of protobuf other members, some of which it may have now."""
    kept = [copy.deepcopy(value) for value in values]
    del field[:]
    field.extend(kept)
