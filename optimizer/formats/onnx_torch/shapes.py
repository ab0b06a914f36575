"""ONNX operators that move, cut, join and make tensors, as functions on torch tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optimizer.formats.onnx_torch.operation import Function, Operation, ints

if TYPE_CHECKING:
    import numpy as np
    import torch


def reshape(op: Operation, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """A size of 0 keeps the input's, unless `allowzero`."""
    sizes = ints(shape)
    if not op.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """To two dimensions, cut at the axis."""
    axis = op.get("axis", 1) % (x.ndim + 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def transpose(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """Axes in a new order, reversed by default."""
    return x.permute(op.get("perm") or list(range(x.ndim))[::-1])


def concat(op: Operation, *parts: torch.Tensor) -> torch.Tensor:
    """Joined along an axis that is there."""
    import torch

    return torch.cat(parts, op.get("axis"))


def split(op: Operation, x: torch.Tensor, sizes: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Parts of given sizes, or of equal sizes with a smaller last one."""
    axis, count = op.get("axis", 0), len(op.outputs)
    parts: tuple[torch.Tensor, ...] = x.split(ints(sizes) if sizes is not None else -(-x.shape[axis] // count), axis)
    return parts


def cut(
    op: Operation,
    x: torch.Tensor,
    starts: torch.Tensor,
    ends: torch.Tensor,
    axes: torch.Tensor | None = None,
    steps: torch.Tensor | None = None,
) -> torch.Tensor:
    """Python's slices, one per axis; those that run backwards are turned round."""
    del op
    first, last = ints(starts), ints(ends)
    along = ints(axes) if axes is not None else list(range(len(first)))
    strides = ints(steps) if steps is not None else [1] * len(first)
    for start, end, axis, stride in zip(first, last, along, strides, strict=True):
        if stride < 0:
            chosen = list(range(x.shape[axis]))[_backwards(start, end, stride, x.shape[axis])]
            x = x.index_select(axis, x.new_tensor(chosen).long())
            continue
        index: list[Any] = [slice(None)] * x.ndim
        index[axis] = slice(start, end, stride)
        x = x[tuple(index)]
    return x


def _backwards(start: int, end: int, stride: int, size: int) -> slice:
    """ONNX means an end far below zero as one before the first; Python counts it from the back."""
    return slice(start, None if end < -size else end, stride)


def gather(op: Operation, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Rows of an axis; negative indices count from the end."""
    axis = op.get("axis", 0) % x.ndim
    flat = indices.reshape(-1).long()
    flat = flat.where(flat >= 0, flat + x.shape[axis])
    found = x.index_select(axis, flat)
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def gather_elements(op: Operation, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """One element per index, along an axis."""
    axis = op.get("axis", 0)
    return x.gather(axis, indices.where(indices >= 0, indices + x.shape[axis]).long())


def gather_nd(op: Operation, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """What lies at coordinates, negative ones counted from the end; `batch_dims` leading axes go side by side."""
    import torch

    batch = op.get("batch_dims", 0)
    places = list(indices.long().unbind(-1))
    for axis in reversed(range(batch)):
        shape = [1] * places[0].ndim
        shape[axis] = x.shape[axis]
        places.insert(0, torch.arange(x.shape[axis], device=x.device).reshape(shape))
    return x[tuple(places)]


def unsqueeze(op: Operation, x: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """New axes of size 1, counted in the result."""
    del op
    found = ints(axes)
    rank = x.ndim + len(found)
    for axis in sorted(axis % rank for axis in found):
        x = x.unsqueeze(axis)
    return x


def squeeze(op: Operation, x: torch.Tensor, axes: torch.Tensor | None = None) -> torch.Tensor:
    """Without these axes of size 1, or without all of them."""
    del op
    return x.squeeze(ints(axes)) if axes is not None else x.squeeze()


def expand(op: Operation, x: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Broadcast both ways."""
    import torch

    del op
    return x.expand(torch.broadcast_shapes(x.shape, ints(shape)))


def tile(op: Operation, x: torch.Tensor, repeats: torch.Tensor) -> torch.Tensor:
    """Repeated along each axis."""
    del op
    return x.repeat(ints(repeats))


def pad(
    op: Operation,
    x: torch.Tensor,
    pads: torch.Tensor,
    value: torch.Tensor | None = None,
    axes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Before and after each axis: a constant, a reflection, or the edge."""
    import torch

    mode = op.get("mode", "constant")
    found = ints(pads)
    along = ints(axes) if axes is not None else list(range(x.ndim))
    margins = {axis % x.ndim: (found[i], found[i + len(along)]) for i, axis in enumerate(along)}
    if mode == "constant":
        flat = [size for axis in reversed(range(x.ndim)) for size in margins.get(axis, (0, 0))]
        return torch.nn.functional.pad(x, flat, value=0 if value is None else value.item())
    if any(margins.get(axis, (0, 0)) != (0, 0) for axis in (0, 1)) or mode not in ("reflect", "edge"):
        raise op.refused(f"mode {mode} is known for the spatial axes only")
    flat = [size for axis in reversed(range(2, x.ndim)) for size in margins.get(axis, (0, 0))]
    return torch.nn.functional.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate"}[mode])


def cast(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """To another type."""
    import onnx
    import torch

    wanted = onnx.helper.tensor_dtype_to_np_dtype(op.get("to"))
    return x.to(torch.from_numpy(_empty(wanted)).dtype)


def _empty(kind: np.dtype) -> np.ndarray:
    import numpy as np

    return np.zeros(0, kind)


def cast_like(op: Operation, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """To the type of the other."""
    del op
    return x.to(other.dtype)


def shape(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """The sizes, which stay on the CPU: whoever reads them wants Python's numbers."""
    import torch

    return torch.tensor(list(x.shape)[op.get("start", 0) : op.get("end", x.ndim)], dtype=torch.int64)


def constant(op: Operation) -> torch.Tensor:
    """The attribute's value, whichever form it has."""
    import numpy as np
    import torch

    kinds = {"value_float": np.float32, "value_int": np.int64, "value_floats": np.float32, "value_ints": np.int64}
    name, value = next(iter(op.attributes.items()))
    if name != "value" and name not in kinds:
        raise op.refused(f"a constant of the kind {name} is no tensor")
    return torch.from_numpy(np.array(value, kinds.get(name)))


def filled(op: Operation, sizes: torch.Tensor) -> torch.Tensor:
    """A shape full of one value, zero by default."""
    import numpy as np
    import torch

    value = op.get("value", np.zeros(1, np.float32))
    return torch.from_numpy(np.full(ints(sizes), value.reshape(-1)[0]))


def counted(op: Operation, start: torch.Tensor, limit: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Numbers from start up to the limit."""
    import torch

    del op
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


def triangle(op: Operation, x: torch.Tensor, k: torch.Tensor | None = None) -> torch.Tensor:
    """The upper or lower triangle of the last two axes."""
    diagonal = 0 if k is None else int(k)
    return x.triu(diagonal) if op.get("upper", 1) else x.tril(diagonal)


def depth_to_space(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """Channels to blocks of pixels, in either order."""
    size = op.get("blocksize")
    n, c, h, w = x.shape
    if op.get("mode", "DCR") == "CRD":
        parts = x.reshape(n, c // size**2, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


def space_to_depth(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """Blocks of pixels to channels."""
    size = op.get("blocksize")
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size**2, h // size, w // size)


def same(op: Operation, x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """The input as it is: at inference nothing is dropped."""
    return x


FUNCTIONS: dict[str, Function] = {
    "Reshape": reshape, "Flatten": flatten, "Transpose": transpose, "Concat": concat, "Split": split, "Slice": cut,
    "Gather": gather, "GatherElements": gather_elements, "GatherND": gather_nd, "Unsqueeze": unsqueeze,
    "Squeeze": squeeze, "Expand": expand, "Tile": tile, "Pad": pad, "Cast": cast, "CastLike": cast_like,
    "Shape": shape, "Constant": constant,
    "ConstantOfShape": filled, "Range": counted, "Trilu": triangle, "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth, "Identity": same, "Dropout": same,
}  # fmt: skip
# Inputs by position that say how, not what: they are read as Python's numbers, wherever the model runs.
SETTINGS: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Split": (1,), "Slice": (1, 2, 3, 4), "Unsqueeze": (1,), "Squeeze": (1,), "Expand": (1,),
    "Tile": (1,), "Pad": (1, 2, 3), "ConstantOfShape": (0,), "Range": (0, 1, 2), "Trilu": (1,), "Clip": (1, 2),
    "Resize": (1, 2, 3), "CumSum": (1,), "ReduceMean": (1,), "ReduceSum": (1,), "ReduceMax": (1,), "ReduceMin": (1,),
    "ReduceL1": (1,), "ReduceL2": (1,), "ReduceSumSquare": (1,), "ReduceLogSumExp": (1,),
}  # fmt: skip
