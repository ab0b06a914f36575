"""Where Q/DQ pairs go: decided on the float graph, from which nodes are taken and what the target's kernels fuse.

The rules, each because a pair costs time and accuracy where no kernel takes it up:

- A taken node reads its activations through pairs. Other readers of the same tensor, such as a residual sum in float,
  keep reading the float values, unless these exist in 8 bits only.
- A taken node writes through a pair, unless the target has kernels that write float for it (`float_outputs`).
- Between a node and the ReLU after it is no pair. Where zero points are free, the ReLU goes too: the grid of its
  result starts at zero, so that storing clips what is negative.
- What only moves values (Reshape, MaxPool, ...) follows: quantized where what it reads is stored in 8 bits, and on the
  same grid. It is never a reason for a pair.
- What adds, multiplies or averages joins only behind a kernel that writes 8 bits, whether or not that one is kept in
  float this time; asking for its type in `ops` overrules this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optimizer.scheme import QuantScheme

if TYPE_CHECKING:
    import onnx

WEIGHTED = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
FOLLOWERS = frozenset((
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool", "Resize", "Slice", "Split", "Pad",
))  # fmt: skip
CLIPS = frozenset(("Relu", "Clip"))
FLOAT = 1  # of onnx.TensorProto
TABLES = frozenset(("Gather",))  # a lookup has the grid of its table


@dataclass
class Placement:
    """What the writer is to do. Names are of the float graph."""

    taken: list[int] = field(default_factory=list)  # indices of the nodes that read or write through pairs
    dropped: dict[int, int] = field(default_factory=dict)  # index of a ReLU -> of the node that takes over its result
    # Tensor -> the tensor whose grid it has. `written`: exists in 8 bits only; `read`: some of its readers want 8 bits.
    written: dict[str, str] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)

    def grid(self, tensor: str) -> str | None:
        """The tensor on whose grid this one is stored; None when it stays in float."""
        return self.written.get(tensor) or self.read.get(tensor)


def place(
    model: onnx.ModelProto,
    takes: Callable[[onnx.NodeProto], bool],
    ranged: Mapping[str, float],
    scheme: QuantScheme,
    explicit: Iterable[str] = (),
) -> Placement:
    """The placement for the nodes that are taken; `ranged`: activations that may be stored -> their lowest value.

    `explicit`: operator types that join whatever stands before them. The graph's nodes must be in topological order.
    """
    return _Placer(model, takes, ranged, scheme, frozenset(explicit)).place()


class _Placer:
    def __init__(
        self,
        model: onnx.ModelProto,
        takes: Callable[[onnx.NodeProto], bool],
        ranged: Mapping[str, float],
        scheme: QuantScheme,
        explicit: frozenset[str],
    ) -> None:
        self.nodes = list(model.graph.node)
        self.takes, self.ranged, self.scheme, self.explicit = takes, ranged, scheme, explicit
        self.weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}
        self.outputs = {value.name for value in model.graph.output}
        self.made = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: defaultdict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.input):
                self.readers[name].append(index)
        self.storable: set[str] = set()
        for node in self.nodes:
            self.storable.update(node.output if self._stores(node) else ())
        self.found = Placement()

    def place(self) -> Placement:
        for index, node in enumerate(self.nodes):
            if not self.takes(node):
                continue
            if node.op_type in CLIPS:
                self._clip(index, node)
            elif node.op_type in FOLLOWERS:
                self._follow(index, node)
            elif node.op_type in TABLES:
                self._look_up(index, node)
            elif node.op_type in WEIGHTED or self._joins(node):
                self._take(index, node)
        return self.found

    def _joins(self, node: onnx.NodeProto) -> bool:
        """Whether an operator without weights is worth it: a kernel before it writes 8 bits."""
        return node.op_type in self.explicit or any(name in self.storable for name in node.input)

    def _stores(self, node: onnx.NodeProto) -> bool:
        """Whether a kernel writes the node's result in 8 bits, were nothing kept in float."""
        if node.op_type not in self.scheme.ops:
            return False
        if node.op_type in FOLLOWERS | CLIPS:
            return node.input[0] in self.storable
        if node.op_type in WEIGHTED | TABLES:
            return node.op_type not in self.scheme.float_outputs
        return self._joins(node)

    def _take(self, index: int, node: onnx.NodeProto) -> None:
        activations = [name for name in node.input if name in self.ranged]
        if not activations:
            return
        self.found.taken.append(index)
        for name in activations:
            if name not in self.found.written:
                self.found.read.setdefault(name, name)
        if node.op_type not in self.scheme.float_outputs and self._clipped_by(node) is None:
            self._write(node)

    def _write(self, node: onnx.NodeProto) -> None:
        for name in node.output:
            if name in self.ranged:
                self.found.written[name] = name

    def _clipped_by(self, node: onnx.NodeProto) -> int | None:
        """The taken ReLU that alone reads the node's result."""
        (name, *others) = node.output
        readers = self.readers[name]
        if others or name in self.outputs or len(readers) != 1:
            return None
        reader = self.nodes[readers[0]]
        return (
            readers[0] if reader.op_type in CLIPS and self.takes(reader) and reader.output[0] in self.ranged else None
        )

    def _clip(self, index: int, node: onnx.NodeProto) -> None:
        before = self.made.get(node.input[0])
        if before is not None and self._fuses(before, index):
            self._write(node)
            # With the lowest value at zero and free zero points, zero is the lowest that can be stored.
            if not self.scheme.activation_symmetric and self.ranged[node.output[0]] >= 0:
                self.found.dropped[index] = before
            return
        if node.input[0] in self.found.written and node.output[0] in self.ranged:
            self.found.taken.append(index)
            self._write(node)

    def _fuses(self, before: int, clip: int) -> bool:
        """Whether the kernel of a node takes up the ReLU after it."""
        node = self.nodes[before]
        taken = before in self.found.taken and node.op_type not in self.scheme.float_outputs
        return taken and self._clipped_by(node) == clip

    def _follow(self, index: int, node: onnx.NodeProto) -> None:
        grid = self.found.written.get(node.input[0])
        if grid is None:
            return
        self.found.taken.append(index)
        self.found.written.update({name: grid for name in node.output if name})

    def _look_up(self, index: int, node: onnx.NodeProto) -> None:
        """A lookup in a constant table gives stored values; in an activation it only moves them."""
        if node.input[0] in self.weights:
            self.found.taken.append(index)
            self.found.written[node.output[0]] = node.input[0]
        else:
            self._follow(index, node)
