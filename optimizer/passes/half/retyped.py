"""Writes an assignment into a graph by casts of its own: any 16-bit type, and Q/DQ pairs, which read it in places.

onnxconverter-common knows float16 alone, and whole nodes alone; see `convert.py` for what it writes.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from optimizer.formats.nodes import captured
from optimizer.formats.onnx_names import claim
from optimizer.passes.half import masks
from optimizer.passes.half.assignment import FLOAT, Assignment, casts

if TYPE_CHECKING:
    import onnx


def retyped(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> onnx.ModelProto:
    """A copy of the model that computes as assigned; `masked`: values that reach nothing but a softmax.

    A value has at most one cast in each direction: to 16 bits in front of its first narrow reader, back to float32
    behind its maker where anything wide reads it. Inputs and outputs of the graph keep their names and types.
    """
    return _Writer(model, assigned, masked).write()


class _Writer:
    """A copy of a model whose nodes are written anew, one after the other."""

    def __init__(self, model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> None:
        self.model = copy.deepcopy(model)
        self.graph, self.assigned, self.masked = self.model.graph, assigned, masked
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.stated = {v.name: v for v in (*self.graph.input, *self.graph.output, *self.graph.value_info)}
        self.taken = {name for node in self.graph.node for name in (*node.input, *node.output)} | {*self.constants}
        self.wide = self._read_wide()
        self.halves: dict[str, str] = {}  # float32 value -> its name in 16 bits
        self.nodes: list[onnx.NodeProto] = []

    def write(self) -> onnx.ModelProto:
        import onnx

        for index, node in enumerate(list(self.graph.node)):
            for place in sorted(self.assigned.reads.get(index, ())):
                node.input[place] = self._narrow(node.input[place])
            self.nodes.append(node)
            if self.assigned.narrow(index) and casts(node):
                next(a for a in node.attribute if a.name == "to").i = self.assigned.half.code
            for place in sorted(self.assigned.gives.get(index, ())):
                node.output[place] = self._given(node.output[place])
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        for name in {*self.halves} - self.wide:
            if name in self.constants:
                self.graph.initializer.remove(self.constants[name])
        # The model may have been raised to a later opset than its file format is said to hold.
        least = onnx.helper.find_min_ir_version_for(self.model.opset_import, ignore_unknown=True)
        self.model.ir_version = max(self.model.ir_version, least)
        return self.model

    def _read_wide(self) -> set[str]:
        """The values that anything reads as float32: wide nodes, bodies of branches, the caller."""
        found = {*captured(self.graph.node), *(value.name for value in self.graph.output)}
        for index, node in enumerate(self.graph.node):
            narrow = self.assigned.reads.get(index, frozenset())
            found |= {name for place, name in enumerate(node.input) if place not in narrow}
        return found

    def _named(self, name: str) -> str:
        """A free name for a value in 16 bits."""
        self.halves[name] = claim(f"{name}_{self.assigned.half.name}", self.taken)
        return self.halves[name]

    def _narrow(self, name: str) -> str:
        """The name of a value in 16 bits, which is made where it is not there yet."""
        import onnx

        if name in self.halves:
            return self.halves[name]
        result = self._named(name)
        if name in self.constants:
            stored = masks.stored(self.constants[name], self.assigned.half, name in self.masked)
            self.graph.initializer.append(onnx.numpy_helper.from_array(stored, result))
        else:
            self._cast(name, result, self.assigned.half.code)
            self._state(name, result)
        return result

    def _given(self, name: str) -> str:
        """The name of a value that a narrow node gives, and a cast behind it where float32 is wanted too."""
        result = self._named(name)
        if name in self.wide:
            self._state(name, result)
            self._cast(result, name, FLOAT)
        elif name in self.stated:
            stated = self.stated[name]
            stated.name, stated.type.tensor_type.elem_type = result, self.assigned.half.code
        return result

    def _state(self, name: str, result: str) -> None:
        """A `value_info` for a value in 16 bits, of the shape of the one in float32."""
        if name in self.stated:
            value = self.graph.value_info.add()
            value.CopyFrom(self.stated[name])
            value.name, value.type.tensor_type.elem_type = result, self.assigned.half.code

    def _cast(self, source: str, result: str, kind: int) -> None:
        import onnx

        self.nodes.append(onnx.helper.make_node("Cast", [source], [result], f"{result}_cast", to=kind))
