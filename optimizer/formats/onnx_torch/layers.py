"""ONNX operators with weights, windows and normalizations, as functions on torch tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optimizer.formats.onnx_torch.operation import Function, Operation, ints

if TYPE_CHECKING:
    import torch

MASKED = -10000.0  # what MultiHeadAttention adds for positions that are padding, unless it says otherwise


def conv(op: Operation, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Over one to three spatial axes."""
    import torch

    window = _Window(op, x, weight.shape[2:])
    function: Any = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[x.ndim - 3]
    x, margin = window.padded(x, 0.0)
    found: torch.Tensor = function(x, weight, bias, window.strides, margin, window.dilations, op.get("group", 1))
    return found


def conv_transpose(
    op: Operation, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:  # fmt: skip
    """The transposed convolution; pads cut the result."""
    import torch

    if op.get("output_shape") or op.get("auto_pad", "NOTSET") != "NOTSET":
        raise op.refused("the result's shape is given instead of pads")
    rank = x.ndim - 2
    strides, dilations = op.get("strides") or [1] * rank, op.get("dilations") or [1] * rank
    extra, pads = op.get("output_padding") or [0] * rank, op.get("pads") or [0] * (2 * rank)
    functions: Any = (
        torch.nn.functional.conv_transpose1d, torch.nn.functional.conv_transpose2d, torch.nn.functional.conv_transpose3d
    )  # fmt: skip
    before, after = pads[:rank], pads[rank:]
    if before == after:
        symmetric: torch.Tensor = functions[rank - 1](
            x, weight, bias, strides, before, extra, op.get("group", 1), dilations
        )
        return symmetric
    found: torch.Tensor = functions[rank - 1](x, weight, bias, strides, 0, extra, op.get("group", 1), dilations)
    cuts = [-size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    return torch.nn.functional.pad(found, cuts)


class _Window:
    """Strides, dilations and margins of a sliding window."""

    def __init__(self, op: Operation, x: torch.Tensor, kernel: Sequence[int]) -> None:
        rank = len(kernel)
        self.kernel = list(kernel)
        self.strides: list[int] = op.get("strides") or [1] * rank
        self.dilations: list[int] = op.get("dilations") or [1] * rank
        pads: list[int] = op.get("pads") or [0] * (2 * rank)
        auto = op.get("auto_pad", "NOTSET")
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = self._same(x, auto == "SAME_UPPER")
        self.before, self.after = pads[:rank], pads[rank:]

    def _same(self, x: torch.Tensor, upper: bool) -> list[int]:
        """Margins with which the result has the input's size divided by the stride."""
        less, more = [], []
        for size, kernel, stride, step in zip(x.shape[2:], self.kernel, self.strides, self.dilations, strict=True):
            total = max((-(-size // stride) - 1) * stride + (kernel - 1) * step + 1 - size, 0)
            less.append(total // 2)
            more.append(total - total // 2)
        return less + more if upper else more + less

    @property
    def even(self) -> bool:
        """Whether the margins are alike on both sides."""
        return self.before == self.after

    def padded(self, x: torch.Tensor, value: float) -> tuple[torch.Tensor, list[int]]:
        """The input, and the margin that the operator itself is to add on both sides."""
        import torch

        if self.even:
            return x, self.before
        flat = [size for pair in zip(reversed(self.before), reversed(self.after), strict=True) for size in pair]
        return torch.nn.functional.pad(x, flat, value=value), [0] * len(self.before)


def max_pool(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """The largest value under each window."""
    import torch

    window = _Window(op, x, op.get("kernel_shape"))
    functions: Any = (torch.nn.functional.max_pool1d, torch.nn.functional.max_pool2d, torch.nn.functional.max_pool3d)
    x, margin = window.padded(x, float("-inf"))
    ceil = bool(op.get("ceil_mode", 0))
    found: torch.Tensor = functions[x.ndim - 3](x, window.kernel, window.strides, margin, window.dilations, ceil)
    return found


def average_pool(op: Operation, x: torch.Tensor) -> torch.Tensor:
    """The mean under each window, margins counted or not."""
    import torch

    window = _Window(op, x, op.get("kernel_shape"))
    if any(step != 1 for step in window.dilations):
        raise op.refused("its window is dilated")
    functions: Any = (torch.nn.functional.avg_pool1d, torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d)
    function, ceil = functions[x.ndim - 3], bool(op.get("ceil_mode", 0))
    counted = bool(op.get("count_include_pad", 0))
    wide, margin = window.padded(x, 0.0)
    found: torch.Tensor = function(wide, window.kernel, window.strides, margin, ceil, counted or not window.even)
    if window.even or counted:
        return found
    ones, _ = window.padded(torch.ones_like(x), 0.0)
    share: torch.Tensor = function(ones, window.kernel, window.strides, margin, ceil, True)
    return found / share


def global_average(op: Operation, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """The mean over all spatial axes."""
    return x.mean(list(range(2, x.ndim)), keepdim=True)


def global_max(op: Operation, x: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """The largest value over all spatial axes."""
    return x.amax(list(range(2, x.ndim)), keepdim=True)


def gemm(op: Operation, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
    """alpha a b + beta c, either of a and b transposed."""
    a, b = (a.t() if op.get("transA", 0) else a), (b.t() if op.get("transB", 0) else b)
    alpha, beta = op.get("alpha", 1.0), op.get("beta", 1.0)
    found = a.mm(b) if alpha == 1 else a.mm(b) * alpha
    return found if c is None else found + (c if beta == 1 else c * beta)


def matmul(op: Operation, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # noqa: ARG001  # a function of the table
    """As numpy's."""
    return a.matmul(b)


def einsum(op: Operation, *values: torch.Tensor) -> torch.Tensor:
    """Sums of products as the equation has it."""
    import torch

    return torch.einsum(op.get("equation"), *values)


def batch_norm(
    op: Operation, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, var: torch.Tensor
) -> torch.Tensor:
    """With the stored statistics, which training leaves as they are."""
    import torch

    return torch.nn.functional.batch_norm(x, mean, var, scale, bias, False, 0.0, op.get("epsilon", 1e-5))


def instance_norm(op: Operation, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Per sample and channel."""
    import torch

    return torch.nn.functional.instance_norm(x, weight=scale, bias=bias, eps=op.get("epsilon", 1e-5))


def layer_norm(op: Operation, x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Over the axes from `axis` on."""
    import torch

    axis = op.get("axis", -1) % x.ndim
    shape = list(x.shape[axis:])
    scale, bias = scale.expand(shape), bias if bias is None else bias.expand(shape)
    return torch.nn.functional.layer_norm(x, shape, scale, bias, op.get("epsilon", 1e-5))


def skip_layer_norm(
    op: Operation,
    x: torch.Tensor,
    skip: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """The normalized sum, and as the fourth output the sum (com.microsoft)."""
    import torch

    total = x + skip if bias is None else x + skip + bias
    found = torch.nn.functional.layer_norm(total, [total.shape[-1]], scale, shift, op.get("epsilon", 1e-12))
    return found, None, None, total


def attention(
    op: Operation,
    query: torch.Tensor,
    key: torch.Tensor | None = None,
    value: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    padding: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
    *others: torch.Tensor | None,
) -> torch.Tensor:
    """MultiHeadAttention on (batch, length, width) each (com.microsoft)."""
    import torch

    if key is None or value is None or key.ndim != 3 or any(other is not None for other in others):
        raise op.refused("it is not three tensors of query, key and value without a past")
    if bias is not None:
        first, second = query.shape[-1], query.shape[-1] + key.shape[-1]
        query, key, value = query + bias[:first], key + bias[first:second], value + bias[second:]
    heads = op.get("num_heads")
    q, k, v = (t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (query, key, value))
    scores = q @ k.transpose(-1, -2) * (op.get("scale") or q.shape[-1] ** -0.5)
    if added is not None:
        scores = scores + added
    if padding is not None:
        if padding.ndim != 2:
            raise op.refused("its mask of padding is not (batch, length)")
        gone = (padding == 0)[:, None, None, :]
        scores = scores + gone * op.get("mask_filter_value", MASKED)
    if op.get("unidirectional", 0):
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, op.get("mask_filter_value", MASKED))
    found = scores.softmax(-1) @ v
    return found.transpose(1, 2).reshape(*query.shape[:2], -1)


def resize(
    op: Operation,
    x: torch.Tensor,
    roi: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    sizes: torch.Tensor | None = None,
) -> torch.Tensor:
    """Nearest or linear, over the spatial axes."""
    import torch

    del roi
    mode, where = op.get("mode", "nearest"), op.get("coordinate_transformation_mode", "half_pixel")
    if sizes is not None and sizes.numel():
        wanted = ints(sizes)[2:]
    elif scales is not None:
        wanted = [int(n * float(s)) for n, s in zip(x.shape, scales.tolist(), strict=True)][2:]
    else:
        raise op.refused("neither scales nor sizes are given")
    if mode == "nearest":
        exact = where in ("half_pixel", "pytorch_half_pixel")
        return torch.nn.functional.interpolate(x, wanted, mode="nearest-exact" if exact else "nearest")
    if mode != "linear" or where not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise op.refused(f"mode {mode} with {where} coordinates")
    kind = {3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
    return torch.nn.functional.interpolate(x, wanted, mode=kind, align_corners=where == "align_corners")


FUNCTIONS: dict[str, Function] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": global_average, "GlobalMaxPool": global_max, "Gemm": gemm, "MatMul": matmul, "Einsum": einsum,
    "BatchNormalization": batch_norm, "InstanceNormalization": instance_norm, "LayerNormalization": layer_norm,
    "SkipLayerNormalization": skip_layer_norm, "MultiHeadAttention": attention, "Resize": resize,
}  # fmt: skip
