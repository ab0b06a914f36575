"""An ONNX graph -> a `torch.nn.Module` that computes the same from the same inputs, with some initializers learnt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats.onnx_torch import arithmetic, layers, operation, shapes
from optimizer.formats.onnx_torch.operation import Function, Operation

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

Functions = Mapping[str, Function]
FUNCTIONS: Functions = {**arithmetic.FUNCTIONS, **layers.FUNCTIONS, **shapes.FUNCTIONS}
SHOWN = 8


def unknown_kinds(model: onnx.ModelProto, functions: Functions | None = None) -> list[str]:
    """Operator types of the graph for which there is no function, neither here nor among `functions`."""
    known = {**FUNCTIONS, **(functions or {})}
    return sorted({node.op_type for node in model.graph.node} - set(known))


def convert(
    model: onnx.ModelProto, trainable: Collection[str], functions: Functions | None = None, who: str = "training"
) -> nn.Module:
    """The module: `forward(feeds)` maps input names to tensors onto output names to tensors.

    `trainable`: initializers that become parameters; the other floating ones are buffers. `functions` add operators or
    take the place of those that are known. Raises OptimizerError naming the operators that have none.
    """
    unknown = unknown_kinds(model, functions)
    if unknown:
        nodes = [f"{n.op_type} '{n.name or n.output[0]}'" for n in model.graph.node if n.op_type in unknown]
        raise OptimizerError(
            f"{who} cannot differentiate {', '.join(unknown)}: {', '.join(nodes[:SHOWN])}; "
            f"known are {', '.join(sorted(FUNCTIONS))}",
            "train the model in PyTorch before it is exported, or leave this step out of the recipe",
        )
    return _module(_Graph(model, {**FUNCTIONS, **(functions or {})}), _constants(model), trainable)


def _constants(model: onnx.ModelProto) -> dict[str, torch.Tensor]:
    import onnx
    import torch

    return {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in model.graph.initializer}


def _module(graph: _Graph, constants: Mapping[str, torch.Tensor], trainable: Collection[str]) -> nn.Module:
    from torch import nn

    class Interpreted(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
        """Runs the graph; integers stay on the CPU, where shapes are read, until an operator has them beside floats."""

        def __init__(self) -> None:
            super().__init__()
            self.names = [name for name in constants if name in trainable]
            self.learnt = nn.ParameterList([nn.Parameter(constants[name]) for name in self.names])
            self.fixed = [n for n, t in constants.items() if n not in trainable and t.is_floating_point()]
            for index, name in enumerate(self.fixed):
                self.register_buffer(f"fixed{index}", constants[name])
            self.integers = {n: t for n, t in constants.items() if not t.is_floating_point()}

        def forward(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            values = dict(zip(self.names, self.learnt, strict=True))
            values |= {name: getattr(self, f"fixed{index}") for index, name in enumerate(self.fixed)}
            return graph.run({**self.integers, **values, **feeds})

    return Interpreted()


class _Graph:
    """The nodes in order, each with its function, and which values are needed no more after it."""

    def __init__(self, model: onnx.ModelProto, functions: Functions) -> None:
        self.outputs = [value.name for value in model.graph.output]
        self.operations = [(op := operation.of(node), functions[op.kind]) for node in model.graph.node]
        last = {name: index for index, (op, _) in enumerate(self.operations) for name in op.inputs}
        kept = set(self.outputs)
        self.done: list[list[str]] = [[] for _ in self.operations]
        for name, index in last.items():
            if name and name not in kept:
                self.done[index].append(name)

    def run(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The outputs; `values` holds inputs and initializers, and is used up."""
        for (op, function), done in zip(self.operations, self.done, strict=True):
            found = function(op, *_together(op, [values[name] if name else None for name in op.inputs]))
            results = found if isinstance(found, tuple) else (found,)
            values.update({n: t for n, t in zip(op.outputs, results, strict=False) if n and t is not None})
            for name in done:
                values.pop(name, None)
        return {name: values[name] for name in self.outputs}


def _together(op: Operation, inputs: list[torch.Tensor | None]) -> Sequence[torch.Tensor | None]:
    """Inputs on one device: what lies on the CPU follows what does not, but for settings, which are read as numbers."""
    settings = shapes.SETTINGS.get(op.kind, ())
    devices = {t.device for i, t in enumerate(inputs) if t is not None and i not in settings}
    if len(devices) < 2:
        return inputs
    (device,) = (d for d in devices if d.type != "cpu")
    return [t if t is None or i in settings else t.to(device) for i, t in enumerate(inputs)]


def feeds_of(arrays: Mapping[str, np.ndarray], device: Any = "cpu") -> dict[str, torch.Tensor]:
    """A batch's arrays as tensors on a device."""
    import torch

    return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in arrays.items()}


def values_of(module: Any) -> dict[str, np.ndarray]:
    """Name of an initializer -> what was learnt for it."""
    return {n: p.detach().cpu().numpy() for n, p in zip(module.names, module.learnt, strict=True)}


def weights(model: onnx.ModelProto, skip: Iterable[str] = ()) -> list[str]:
    """The initializers that training a model means: weights and biases of layers, tables, and normalizations.

    Factors, limits and masks of the graph stay as they are, though they are floating too.
    """
    import onnx

    floats = {t.name: t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    found: dict[str, None] = {}
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in floats and _learnt(node, position, list(floats[name].dims)):
                found[name] = None
    return [name for name in found if name not in set(skip)]


LEARNT = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "Gather": (0,), "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "SkipLayerNormalization": (2, 3, 4), "MultiHeadAttention": (3,), "PRelu": (1,),
    "BiasGelu": (1,), "FastGelu": (1,),
}  # fmt: skip


def _learnt(node: onnx.NodeProto, position: int, dims: list[int]) -> bool:
    """Whether an initializer at this place is a weight or a bias, judged by the operator and the shape."""
    if node.op_type == "MatMul":
        return len(dims) >= 2
    if node.op_type in ("Add", "Sum"):  # the bias of a product: one number per column
        return len(dims) >= 1 and dims[-1] > 1 and all(size == 1 for size in dims[:-1])
    return position in LEARNT.get(node.op_type, ())
