"""ONNX operators that work element by element, compare, and reduce, as functions on torch tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from optimizer.formats.onnx_torch.operation import Function, Operation, ints

if TYPE_CHECKING:
    import torch


def divide(op: Operation, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """Integers are divided towards zero."""
    return a.div(b) if a.is_floating_point() else a.div(b, rounding_mode="trunc")


def power(op: Operation, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """In the type of the base."""
    return a.pow(b).to(a.dtype)


def modulo(op: Operation, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """With the sign of the divisor, or with `fmod` of the dividend."""
    return a.fmod(b) if op.get("fmod", 0) else a.remainder(b)


def clip(
    op: Operation, x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """Bounds are inputs, one of them may be missing."""
    del op
    if low is None and high is None:
        return x
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


def hard_sigmoid(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """max(0, min(1, alpha x + beta))."""
    return (x * op.get("alpha", 0.2) + op.get("beta", 0.5)).clamp(0, 1)


def hard_swish(op: Operation, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """x max(0, min(1, x / 6 + 1 / 2))."""
    import torch

    return torch.nn.functional.hardswish(x)


def leaky_relu(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """`alpha` times what is negative."""
    import torch

    return torch.nn.functional.leaky_relu(x, op.get("alpha", 0.01))


def elu(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """alpha (e^x - 1) for what is negative."""
    import torch

    return torch.nn.functional.elu(x, op.get("alpha", 1.0))


def softplus(op: Operation, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """ln(e^x + 1)."""
    import torch

    return torch.nn.functional.softplus(x)


def mish(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """x tanh(softplus(x))."""
    return x * softplus(op, x).tanh()


def gelu(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """By the error function, or by tanh where the attribute says so."""
    import torch

    return torch.nn.functional.gelu(x, approximate=op.get("approximate", "none"))


def bias_gelu(op: Operation, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """GELU of x + bias (com.microsoft)."""
    return gelu(op, x + bias)


def fast_gelu(op: Operation, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """GELU of x + bias by tanh (com.microsoft)."""
    import torch

    del op
    return torch.nn.functional.gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """x sigmoid(alpha x) (com.microsoft)."""
    return x * (x * op.get("alpha", 1.702)).sigmoid()


def where(op: Operation, condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """`a` where the condition holds, else `b`."""
    return a.where(condition, b)


def softmax(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """Along one axis, the last by default (opset 13 and later)."""
    return x.softmax(op.get("axis", -1))


def log_softmax(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """Along one axis, the last by default (opset 13 and later)."""
    return x.log_softmax(op.get("axis", -1))


def cumulated(op: Operation, x: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """Running sums, the element itself included."""
    if op.get("exclusive", 0) or op.get("reverse", 0):
        raise op.refused("running sums are taken forwards, the element itself included")
    return x.cumsum(int(axis))


def largest(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """Where the largest value of an axis is; of equal ones the first."""
    if op.get("select_last_index", 0):
        raise op.refused("of equal values only the first is found")
    return x.argmax(op.get("axis", 0), keepdim=bool(op.get("keepdims", 1)))


def _plain(name: str) -> Function:
    """The method of that name of the first input, with the other inputs."""
    return lambda op, x, *others: getattr(x, name)(*others)  # a function of the table


def _all(name: str) -> Function:
    """The method of that name, applied to any number of inputs from left to right."""
    return lambda op, *values: functools.reduce(lambda a, b: getattr(a, name)(b), values)  # as above


def _mean(op: Operation, *values: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = functools.reduce(lambda a, b: a + b, values) / len(values)
    del op
    return found


Reduction = Callable[["torch.Tensor", list[int], bool], "torch.Tensor"]
REDUCTIONS: dict[str, Reduction] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keep),
}


def _reduced(reduction: Reduction) -> Function:
    """Over the axes of the second input (opset 18) or of the attribute; over all where neither is there."""

    def reduce(op: Operation, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
        found = ints(axes) if axes is not None else op.get("axes", [])
        if not found and op.get("noop_with_empty_axes", 0):
            return x
        return reduction(x, found or list(range(x.ndim)), bool(op.get("keepdims", 1)))

    return reduce


METHODS = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Neg": "neg", "Abs": "abs",
    "Erf": "erf", "Tanh": "tanh", "Sigmoid": "sigmoid", "Relu": "relu", "Sin": "sin", "Cos": "cos", "Floor": "floor",
    "Ceil": "ceil", "Round": "round", "Sign": "sign", "Reciprocal": "reciprocal", "Not": "logical_not", "Equal": "eq",
    "Greater": "gt", "Less": "lt", "GreaterOrEqual": "ge", "LessOrEqual": "le", "And": "logical_and",
    "Or": "logical_or", "Xor": "logical_xor", "IsNaN": "isnan", "PRelu": "prelu",
}  # fmt: skip
FUNCTIONS: dict[str, Function] = {
    **{kind: _plain(name) for kind, name in METHODS.items()},
    **{kind: _reduced(reduction) for kind, reduction in REDUCTIONS.items()},
    "Sum": _all("add"), "Min": _all("minimum"), "Max": _all("maximum"), "Mean": _mean, "Div": divide, "Pow": power,
    "Mod": modulo, "Clip": clip, "HardSigmoid": hard_sigmoid, "HardSwish": hard_swish, "LeakyRelu": leaky_relu,
    "Elu": elu, "Softplus": softplus, "Mish": mish, "Gelu": gelu, "BiasGelu": bias_gelu, "FastGelu": fast_gelu,
    "QuickGelu": quick_gelu, "Where": where, "Softmax": softmax, "LogSoftmax": log_softmax, "CumSum": cumulated,
    "ArgMax": largest,
}  # fmt: skip
