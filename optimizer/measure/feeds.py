"""Sample inputs brought to the batch size and the other sizes at which latency is measured."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.protocols import Feeds
from optimizer.specs import known_dims
from optimizer.values import Signature, TensorSpec

FREE_DTYPES = ("string", "bfloat16")  # numpy has no type of that name to convert to


def shape_feeds(signature: Signature, samples: Feeds, batch: int, dims: Mapping[str, int]) -> Feeds:
    """Real samples cut, or repeated, to `batch` and to the sizes that `dims` gives to the other free dimensions.

    Raises OptimizerError for a model whose batch size is fixed at another number, for a dimension that the
    model does not have, and for an input that the samples lack.
    """
    symbol = signature.batch_symbol()
    known_dims(signature, dims, "measure.latency")
    first = signature.inputs[0].shape[:1] if signature.inputs else ()
    if symbol is None and batch != 1 and first != (batch,):
        raise OptimizerError(
            f"measure.latency.batch: the model's shape is fixed ({signature.inputs[0]}), it cannot run {batch} samples",
            "use [1] for one call as it is, or export the model with a free first dimension",
        )
    sizes = {**dims, **({symbol: batch} if symbol else {})}
    return {tensor.name: _fit(tensor, samples, sizes) for tensor in signature.inputs}


def _fit(tensor: TensorSpec, samples: Feeds, sizes: Mapping[str, int]) -> np.ndarray:
    if tensor.name not in samples:
        raise OptimizerError(
            f"no sample for the input '{tensor.name}' ({tensor}); available: {', '.join(samples) or 'none'}",
            "map a data column to it with data.evaluate.inputs",
        )
    array = np.asarray(samples[tensor.name])
    inner = zip(tensor.shape[1:], array.shape[1:], strict=False)
    if array.ndim != len(tensor.shape) or 0 in array.shape or any(isinstance(d, int) and d != n for d, n in inner):
        raise OptimizerError(
            f"input '{tensor.name}': samples of shape {list(array.shape)} do not fit {tensor}",
            "check the transforms and the model's inputs",
        )
    for axis, dim in enumerate(tensor.shape):
        size = dim if isinstance(dim, int) else sizes.get(dim, array.shape[axis])
        if size != array.shape[axis]:
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return np.ascontiguousarray(array if tensor.dtype in FREE_DTYPES else array.astype(tensor.dtype, copy=False))
