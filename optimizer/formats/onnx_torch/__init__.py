"""A float ONNX graph as a differentiable PyTorch module: small, and only as wide as what this package's steps write.

Training works on the very graph that is deployed, after export, simplification and fusion, so that what was learnt goes
back into its initializers and no second export stands between. An operator without a function here is refused by name.
"""

from __future__ import annotations

from optimizer.formats.onnx_torch.module import Functions, convert, feeds_of, unknown_kinds, values_of, weights
from optimizer.formats.onnx_torch.operation import Function, Operation

__all__ = ["Function", "Functions", "Operation", "convert", "feeds_of", "unknown_kinds", "values_of", "weights"]
