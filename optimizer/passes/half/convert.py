"""Writes an assignment into a graph: float16 constants and values, and casts where float32 begins and ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from optimizer.passes.half import masks, numbers
from optimizer.passes.half.assignment import FLOAT, FLOAT16, Assignment, captured

if TYPE_CHECKING:
    import onnx


def converted(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> onnx.ModelProto:
    """A copy of the model that computes in float16 as assigned; `masked`: values that reach nothing but a softmax."""
    return _Converted(model, assigned, masked).write()


def rehearsed(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> onnx.ModelProto:
    """A float32 copy of the model that rounds to float16 wherever the converted one does; values keep their names.

    It shows float16 on machines that have none: ONNX Runtime's CPU kernels compute such graphs in float32 and leave
    the rounding between two of them out.
    """
    return _Rehearsed(model, assigned, masked).write()


class _Copy:
    """A copy of a model whose nodes are written anew, one after the other."""

    def __init__(self, model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> None:
        import onnx

        self.model = copy.deepcopy(model)
        self.graph, self.assigned, self.masked = self.model.graph, assigned, masked
        self._node: Callable[..., onnx.NodeProto] = onnx.helper.make_node
        self._array: Callable[[onnx.TensorProto], np.ndarray] = onnx.numpy_helper.to_array
        self._tensor: Callable[[np.ndarray, str], onnx.TensorProto] = onnx.numpy_helper.from_array
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        # Names that must stay float32: outputs of the model, and what bodies of loops and branches read.
        self.fixed = {value.name for value in self.graph.output} | captured(self.graph.node)
        self._taken = {name for node in self.graph.node for name in (*node.input, *node.output)} | {*self.constants}
        self.new: list[onnx.NodeProto] = []

    def write(self) -> onnx.ModelProto:
        for index, node in enumerate(list(self.graph.node)):
            for place, name in enumerate(node.input):
                if name in self.assigned.floats:
                    node.input[place] = self.read(name, place in self.assigned.reads.get(index, ()))
            self.new.append(node)
            for place in sorted(self.assigned.gives.get(index, ())):
                self.give(node, place)
        del self.graph.node[:]
        self.graph.node.extend(self.new)
        read = {name for node in self.new for name in node.input} | self.fixed
        kept = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        return self.model

    def read(self, name: str, half: bool) -> str:
        """The name under which a node reads a float32 value of the source, as float16 or as it is."""
        raise NotImplementedError

    def give(self, node: onnx.NodeProto, place: int) -> None:
        """See to an output that a node, which stands in the graph already, gives as float16."""
        raise NotImplementedError

    def fresh(self, name: str) -> str:
        number, found = 0, name
        while found in self._taken:
            number += 1
            found = f"{name}_{number}"
        self._taken.add(found)
        return found

    def constant(self, name: str) -> np.ndarray:
        """A constant as float16."""
        values = self._array(self.constants[name])
        return numbers.stored(masks.saturated(values) if name in self.masked else values)

    def store(self, values: np.ndarray, name: str) -> None:
        self.graph.initializer.append(self._tensor(values, name))

    def cast(self, source: str, result: str, kind: int) -> None:
        self.new.append(self._node("Cast", [source], [result], self.fresh(f"{result}_cast"), to=kind))


class _Converted(_Copy):
    """The model in float16."""

    def __init__(self, model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> None:
        super().__init__(model, assigned, masked)
        self.halves: dict[str, str] = {}  # value -> its name as float16
        self.floats: dict[str, str] = {}  # value that is given as float16 -> its name as float32, once it is needed
        wide = {
            name
            for index, node in enumerate(self.graph.node)
            for place, name in enumerate(node.input)
            if place not in assigned.reads.get(index, ())
        }
        self.alone = {*self.constants} - wide - self.fixed  # constants that keep their name, which selectors go by

    def write(self) -> onnx.ModelProto:
        super().write()
        for value in self.graph.value_info:
            if self.halves.get(value.name) == value.name:
                value.type.tensor_type.elem_type = FLOAT16
        return self.model

    def read(self, name: str, half: bool) -> str:
        if half:
            if name not in self.halves:
                found = self.halves[name] = name if name in self.alone else self.fresh(f"{name}_float16")
                if found == name:
                    self.constants[name].CopyFrom(self._tensor(self.constant(name), name))
                elif name in self.constants:
                    self.store(self.constant(name), found)
                else:
                    self.cast(name, found, FLOAT16)
            return self.halves[name]
        if self.halves.get(name) != name:
            return name
        if name not in self.floats:
            self.floats[name] = self.fresh(f"{name}_float32")
            self.cast(name, self.floats[name], FLOAT)
        return self.floats[name]

    def give(self, node: onnx.NodeProto, place: int) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = FLOAT16
        name = node.output[place]
        self.halves[name] = name
        if name in self.fixed:
            self.halves[name] = node.output[place] = self.fresh(f"{name}_float16")
            self.cast(self.halves[name], name, FLOAT)


class _Rehearsed(_Copy):
    """The model in float32, with values rounded."""

    def __init__(self, model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> None:
        super().__init__(model, assigned, masked)
        self.rounded: dict[str, str] = {}

    def read(self, name: str, half: bool) -> str:
        if not half:
            return name
        if name not in self.rounded:
            found = self.rounded[name] = self.fresh(f"{name}_rounded")
            if name in self.constants:
                self.store(self.constant(name).astype(np.float32), found)
            else:
                self._round(name, found)
        return self.rounded[name]

    def give(self, node: onnx.NodeProto, place: int) -> None:
        name = self.rounded[node.output[place]] = node.output[place]
        node.output[place] = self.fresh(f"{name}_exact")
        self._round(node.output[place], name)

    def _round(self, source: str, result: str) -> None:
        half = self.fresh(f"{result}_float16")
        self.cast(source, half, FLOAT16)
        self.cast(half, result, FLOAT)
