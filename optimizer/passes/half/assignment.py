"""Which values of an ONNX graph are 16-bit floats, once it is known which nodes compute in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer.formats import onnx_ready, taps
from optimizer.formats.nodes import cast_type
from optimizer.passes.half.numbers import FLOAT16, Half

if TYPE_CHECKING:
    import onnx

FLOAT = 1  # of onnx.TensorProto


@dataclass(frozen=True)
class Assignment:
    """The narrow nodes, by index, with the places of their float inputs and outputs: all are of the type `half`.

    Every other node reads and gives float32.
    """

    reads: Mapping[int, frozenset[int]]
    gives: Mapping[int, frozenset[int]]
    floats: frozenset[str]  # all values that are float32 in the model, constants among them
    half: Half = FLOAT16

    def narrow(self, index: int) -> bool:
        return index in self.reads


def assign(model: onnx.ModelProto, floats: frozenset[str], wide: Iterable[str], half: Half = FLOAT16) -> Assignment:
    """All nodes narrow that can be, but those named in `wide`. An operator's schema says where it takes 16 bits.

    Operators that the schema allows and runtimes refuse (`Half.refused`) stay wide, as those do that it forbids.
    """
    wide = set(wide)
    versions = {opset.domain: opset.version for opset in model.opset_import}
    reads: dict[int, frozenset[int]] = {}
    gives: dict[int, frozenset[int]] = {}
    for index, node in enumerate(model.graph.node):
        if node.op_type in half.refused:
            continue
        schema = _schema(node, versions)
        inputs = _places(node.input, schema.inputs if schema else None, floats, half)
        outputs = _places(node.output, schema.outputs if schema else None, floats, half)
        # Without float inputs its type is in its attributes, a body has values of its own, and the converter knows no
        # node that is so in some places alone, such as Resize: they stay.
        whole = inputs == _floats(node.input, floats) and outputs == _floats(node.output, floats)
        if node.name in wide or _bodies(node) or not whole or not (inputs or casts(node)):
            continue
        reads[index], gives[index] = inputs, outputs
    return Assignment(reads, gives, floats, half)


def floats(model: onnx.ModelProto) -> frozenset[str]:
    """The names of all float32 values, constants among them; ONNX Runtime knows what shape inference does not."""
    known = onnx_ready.types(model)
    found = {name for name, kind in known.items() if kind == FLOAT}
    found |= {tensor.name for tensor in model.graph.initializer if tensor.data_type == FLOAT}
    unknown = [name for node in model.graph.node for name in node.output if name and not known.get(name)]
    if unknown:
        found |= taps.float_values(model, unknown)
    return frozenset(found)


def _schema(node: onnx.NodeProto, versions: Mapping[str, int]) -> Any | None:
    """The operator's schema; None for one that is not of ONNX: those take 16 bits wherever they take 32."""
    import onnx

    try:
        return onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain)
    except (onnx.defs.SchemaError, KeyError):
        return None


def _places(names: Iterable[str], formal: Any | None, floats: frozenset[str], half: Half) -> frozenset[int]:
    """The places of float32 values at which the schema allows `half`; the last parameter may stand for many."""
    return frozenset(
        place
        for place, name in enumerate(names)
        if name in floats and (formal is None or f"tensor({half.name})" in formal[min(place, len(formal) - 1)].types)
    )


def _floats(names: Iterable[str], floats: frozenset[str]) -> frozenset[int]:
    return frozenset(place for place, name in enumerate(names) if name in floats)


def _bodies(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def casts(node: onnx.NodeProto) -> bool:
    """Whether a node is a cast to float32."""
    return cast_type(node) == FLOAT
