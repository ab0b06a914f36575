"""A float32 graph that rounds to 16 bits wherever the converted one does."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from optimizer.passes.half import masks
from optimizer.passes.half.assignment import FLOAT, Assignment

if TYPE_CHECKING:
    import onnx


def rehearsed(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> onnx.ModelProto:
    """A float32 copy of the model that rounds to 16 bits wherever the converted one does; values keep their names.

    It shows 16 bits on machines that have none: ONNX Runtime's CPU kernels compute float16 graphs in float32, leave the
    rounding between two of them out, and know no bfloat16.
    """
    return _Rehearsal(model, assigned, masked).write()


class _Rehearsal:
    """A copy of a model whose nodes are written anew, one after the other."""

    def __init__(self, model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> None:
        self.model = copy.deepcopy(model)
        self.graph, self.assigned, self.masked = self.model.graph, assigned, masked
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.rounded: dict[str, str] = {}  # value -> its name once it is rounded
        self.nodes: list[onnx.NodeProto] = []

    def write(self) -> onnx.ModelProto:
        for index, node in enumerate(list(self.graph.node)):
            for place in sorted(self.assigned.reads.get(index, ())):
                node.input[place] = self._read(node.input[place])
            self.nodes.append(node)
            for place in sorted(self.assigned.gives.get(index, ())):
                name = self.rounded[node.output[place]] = node.output[place]
                node.output[place] = f"optc_exact_{name}"
                self._round(node.output[place], name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        return self.model

    def _read(self, name: str) -> str:
        """The name of a value once it is rounded."""
        if name not in self.rounded:
            found = self.rounded[name] = f"optc_rounded_{name}"
            if name in self.constants:
                self._store(name, found)
            else:
                self._round(name, found)
        return self.rounded[name]

    def _store(self, name: str, result: str) -> None:
        """A constant as 16 bits hold it."""
        import onnx

        stored = masks.stored(self.constants[name], self.assigned.half, name in self.masked)
        self.graph.initializer.append(onnx.numpy_helper.from_array(stored.astype(np.float32), result))

    def _round(self, source: str, result: str) -> None:
        import onnx

        half = f"optc_half_{result}"
        for before, after, kind in ((source, half, self.assigned.half.code), (half, result, FLOAT)):
            self.nodes.append(onnx.helper.make_node("Cast", [before], [after], f"{after}_cast", to=kind))
