"""What the pruning passes share: a module in Python to work on, the same module with edits, and its artifact."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import edits, macs
from optimizer.formats import torch as torch_format
from optimizer.formats.edits import Edit
from optimizer.formats.feeds import sizes_of, synthetic_feeds
from optimizer.formats.record import Built
from optimizer.formats.torch import TorchModel
from optimizer.protocols import Context, Feeds
from optimizer.values import Artifact

SAME = 1e-3
"""Largest difference, relative to an output's largest value, between two modules that should compute the same."""


def opened(source: Artifact, step: str) -> TorchModel:
    """The artifact's module, on the CPU; raises OptimizerError for one that is not made of Python modules."""
    model = torch_format.open_model(source.path)
    if model.record.compiled:
        raise OptimizerError(
            f"{step} changes the layers of a module in Python, {model.record.file} is {model.record.compiled}",
            "give the code that it was exported from: model.entry: file.py:callable, and model.weights",
        )
    return model


def edited(model: TorchModel, changes: Sequence[Edit]) -> TorchModel:
    """A copy of the model with the edits replayed and noted in its record."""
    record = dataclasses.replace(model.record, edits=(*model.record.edits, *changes))
    try:
        module = copy.deepcopy(model.module)
    except (RuntimeError, TypeError) as error:
        raise OptimizerError(
            f"{record.origin}: the module cannot be copied: {(str(error).splitlines() or [''])[0]}",
            "modules hold parameters, buffers and plain values; keep computed tensors out of attributes",
        ) from None
    edits.apply(module, changes)
    return TorchModel(Built(module, model.built.keywords, model.built.select), record)


def write(model: TorchModel, out: Path) -> None:
    """The artifact of a model whose record says all that was changed; trained weights are written as they are now."""
    if model.record.state:
        torch_format.write_trained(model.record, model.module, out)
        return
    state = model.module.state_dict().values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state)
    torch_format.write(dataclasses.replace(model.record, bytes=size), out)


def parameters(model: TorchModel) -> int:
    """How many numbers the module has learnt."""
    return sum(parameter.numel() for parameter in model.module.parameters())


def macs_of(model: TorchModel, ctx: Context) -> int:
    """Multiply-accumulates of one example: batch 1, the other free sizes as in the first sample."""
    signature = model.signature
    sizes = sizes_of(signature, ctx.samples[0])
    batch = signature.batch_symbol()
    feeds = synthetic_feeds(signature, {**sizes, **({batch: 1} if batch else {})}, model.record.seed)
    return macs.count(model, feeds) or 0


def outputs(model: TorchModel, samples: Sequence[Feeds]) -> list[dict[str, np.ndarray]]:
    """What the model gives for every sample; OptimizerError for whatever its forward raises."""
    return [model(feeds) for feeds in samples]


def misshapen(expected: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]]) -> str | None:
    """Why outputs are no answer to the same question: another shape, NaN or infinity; None when they are one."""
    for before, after in zip(expected, found, strict=True):
        for name, array in before.items():
            if array.shape != after[name].shape:
                return f"the output '{name}' becomes {list(after[name].shape)}, it was {list(array.shape)}"
            if array.dtype.kind == "f" and not np.isfinite(after[name]).all():
                return f"the output '{name}' holds NaN or infinity"
    return None


def apart(expected: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]]) -> float:
    """The largest difference of two lists of outputs of equal shapes, relative to each output's largest value."""
    worst = 0.0
    for before, after in zip(expected, found, strict=True):
        for name, array in before.items():
            if array.size:
                scale = float(np.abs(array.astype(np.float64)).max()) or 1.0
                gap = np.abs(array.astype(np.float64) - after[name].astype(np.float64)).max()
                worst = max(worst, float(gap) / scale)
    return worst
