"""Learns what a module returns by running it: output names, dtypes, and which dimensions are free."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats.feeds import shape_of, sizes_of, synthetic_feeds
from optimizer.formats.record import LARGE, Built, Record
from optimizer.formats.torch import TorchModel, as_array, as_tensor
from optimizer.protocols import Feeds
from optimizer.values import Signature, TensorSpec

SIZES = (8, 64, 1024, 16384)  # of a free dimension that no sample shows: the first that the model takes
MOST = 1 << 23  # numbers in a made input


@dataclass(frozen=True)
class Run:
    """One forward: the sizes of the free input dimensions, and what came out."""

    sizes: dict[str, int]
    shapes: list[tuple[int, ...]]
    names: list[str]
    dtypes: list[str]


def outputs(built: Built, record: Record, samples: Sequence[Feeds], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """The outputs of a module whose record has only inputs so far; `names` replaces the names of their structure.

    Runs every sample, or a made one where there is none, and once more for each free dimension whose size the
    samples do not vary. Raises OptimizerError when forward raises, and when an output holds NaN or Inf.
    """
    model = TorchModel(built, record)
    signature = record.signature
    runs = [_run(model, sample) for sample in samples] or [_made(model)]
    for symbol in signature.symbols():
        if len({run.sizes[symbol] for run in runs}) == 1:
            runs.append(_resized(model, symbol, runs[0].sizes))
    if len({len(run.shapes) for run in runs}) > 1:
        raise OptimizerError(
            f"{record.origin}: the number of outputs changes with the input", "return the same tensors for every input"
        )
    return _specs(record.origin, runs, signature, names)


def _made(model: TorchModel) -> Run:
    """A run on a made sample, as small as the model takes: a kernel may be wider than a short signal."""
    refusal: OptimizerError | None = None
    for size in SIZES:
        sizes = start(model.record, size)
        if size > SIZES[0] and max(math.prod(shape_of(s, sizes)) for s in model.signature.inputs) > MOST:
            break
        try:
            return _run(model, synthetic_feeds(model.signature, sizes, model.record.seed))
        except OptimizerError as error:
            refusal = refusal or error
        if set(model.signature.symbols()) <= {model.signature.batch_symbol()}:
            break
    assert refusal is not None
    raise refusal


def start(record: Record, size: int = SIZES[0]) -> dict[str, int]:
    """Batch 2, everything else of this size, within the supported range."""
    found = {}
    for symbol in record.signature.symbols():
        low, high = record.dims.get(symbol, (1, LARGE))
        wanted = 2 if symbol == record.signature.batch_symbol() else size
        found[symbol] = min(max(wanted, low), high)
    return found


def _run(model: TorchModel, feeds: Feeds) -> Run:
    import torch

    with torch.inference_mode():
        found = model.run({spec.name: as_tensor(spec, feeds) for spec in model.signature.inputs})
    for name, tensor in found:
        _refuse_bad(model.record.origin, name, as_array(tensor))
    return Run(
        sizes_of(model.signature, feeds),
        [tuple(tensor.shape) for _, tensor in found],
        [name for name, _ in found],
        [str(tensor.dtype).removeprefix("torch.") for _, tensor in found],
    )


def _refuse_bad(origin: str, name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "c":
        raise OptimizerError(f"{origin}: the output '{name}' is complex", "return real and imaginary parts")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "Inf"
        raise OptimizerError(
            f"{origin}: the output '{name}' holds {what} on the first samples",
            "check weights and preprocessing: a model that does not work is not optimized",
        )


def _resized(model: TorchModel, symbol: str, sizes: Mapping[str, int]) -> Run:
    """A run with another size of one free dimension: twice, half, one more, whichever the model takes first."""
    low, high = model.record.dims.get(symbol, (1, LARGE))
    size = sizes[symbol]
    tried = [s for s in dict.fromkeys((2 * size, size // 2, size + 1, low, high)) if low <= s <= high and s != size]
    refusal: OptimizerError | None = None
    for other in tried[:3]:
        try:
            return _run(model, synthetic_feeds(model.signature, {**sizes, symbol: other}, model.record.seed))
        except OptimizerError as error:
            refusal = error
    if refusal is None:
        raise OptimizerError(
            f"model.dims allows the free dimension '{symbol}' one size only", "write that size into model.inputs"
        )
    raise OptimizerError(
        f"the dimension '{symbol}' is declared free, but the model works at {size} only: {refusal.message}",
        f"write its size into model.inputs, or the sizes that work: model.dims: {{{symbol}: [smallest, largest]}}",
    ) from refusal


def _specs(origin: str, runs: list[Run], signature: Signature, names: Sequence[str]) -> tuple[TensorSpec, ...]:
    own = runs[0].names
    if names and len(names) != len(own):
        raise OptimizerError(
            f"{origin}: model.outputs gives {len(names)} names, the model returns {len(own)}: {', '.join(own)}",
            "name each of them, in this order",
        )
    if not own:
        raise OptimizerError(f"{origin}: forward returns no tensor", "return at least one tensor")
    found = _distinct(list(names or own), {spec.name for spec in signature.inputs})
    return tuple(
        TensorSpec(name, runs[0].dtypes[i], _shape(name, [(run.sizes, run.shapes[i]) for run in runs]))
        for i, name in enumerate(found)
    )


def _distinct(names: list[str], taken: set[str]) -> list[str]:
    """Output names, none of them an input's name or another output's."""
    found: list[str] = []
    for name in names:
        choice, number = name, 0
        while choice in taken or choice in found:
            number += 1
            choice = f"{name}_out" if number == 1 else f"{name}_out{number}"
        found.append(choice)
    return found


def _shape(name: str, runs: list[tuple[dict[str, int], tuple[int, ...]]]) -> tuple[int | str, ...]:
    """Per axis: the one size seen, the free input dimension that it follows, or a name of its own."""
    if len({len(shape) for _, shape in runs}) > 1:
        raise OptimizerError(f"the output '{name}' changes its number of dimensions with the input")
    return tuple(_dim(name, axis, runs) for axis in range(len(runs[0][1])))


def _dim(name: str, axis: int, runs: list[tuple[dict[str, int], tuple[int, ...]]]) -> int | str:
    seen = [shape[axis] for _, shape in runs]
    if len(set(seen)) == 1:
        return seen[0]
    for symbol in runs[0][0]:
        if [sizes[symbol] for sizes, _ in runs] == seen:
            return symbol
    return re.sub(r"\W", "_", f"{name}_{axis}")
