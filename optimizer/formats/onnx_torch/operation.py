"""One node of an ONNX graph with its attributes as Python values, and how a function for it looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError

if TYPE_CHECKING:
    import onnx
    import torch

Function = Callable[..., "torch.Tensor | tuple[torch.Tensor | None, ...]"]
"""Called with the operation and its inputs, None for one that is left out; more than one result come as a tuple."""


@dataclass(frozen=True)
class Operation:
    """A node: `attributes` hold numbers, texts, lists of both, and tensors as arrays."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def refused(self, reason: str) -> OptimizerError:
        """The error for a form of the operator that has no counterpart."""
        return OptimizerError(
            f"the node '{self.name}' ({self.kind}) cannot be trained: {reason}",
            "train the model in PyTorch before it is exported, or leave the training step out",
        )


def of(node: onnx.NodeProto) -> Operation:
    """The node with its attributes read."""
    attributes = {attribute.name: _value(attribute) for attribute in node.attribute}
    return Operation(node.op_type, node.name, tuple(node.input), tuple(node.output), attributes)


def _value(attribute: onnx.AttributeProto) -> Any:
    import onnx

    found = onnx.helper.get_attribute_value(attribute)
    if isinstance(found, bytes):
        return found.decode()
    if isinstance(found, onnx.TensorProto):
        return onnx.numpy_helper.to_array(found)
    return list(found) if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else found


def ints(value: torch.Tensor) -> list[int]:
    """A shape, axes or sizes that came as a tensor."""
    return [int(number) for number in value.reshape(-1).tolist()]
