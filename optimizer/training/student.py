"""A torch artifact as something to train: its named outputs, its data, and its scores by the recipe's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import registry
from optimizer.errors import OptimizerError
from optimizer.formats import torch as torch_format
from optimizer.formats.torch import TorchModel
from optimizer.protocols import Batch, Context
from optimizer.training import cached
from optimizer.training.settings import Settings
from optimizer.training.values import Examples, Loss, Score, TensorBatch, Validation

if TYPE_CHECKING:
    import torch
    from torch import nn

    from optimizer.recipe import Use
    from optimizer.values import Artifact

Outputs = dict[str, "torch.Tensor"]
Objective = Callable[[Outputs, TensorBatch], "tuple[torch.Tensor, dict[str, torch.Tensor]]"]
"""(the model's outputs by name, batch) -> the loss and its parts."""


def opened(source: Artifact, step: str) -> TorchModel:
    """The module of a torch artifact, ready to be trained. Raises OptimizerError for a compiled program."""
    record = torch_format.load_record(source.path)
    if record.compiled:
        raise OptimizerError(
            f"{step}: {record.origin} is {record.compiled}, whose weights cannot be trained",
            "give the module's code: model: {entry: file.py:callable, weights: ..., inputs: ...}",
        )
    return torch_format.open_model(source.path)


def outputs(model: TorchModel, batch: TensorBatch) -> Outputs:
    """One forward with gradients: the output's name -> its tensor of `examples * views` rows."""
    named = {spec.name: batch.feeds[spec.name] for spec in model.signature.inputs}
    found = model.run(named)
    return {spec.name: tensor for spec, (_, tensor) in zip(model.signature.outputs, found, strict=True)}


def loss_of(model: TorchModel, objective: Objective) -> Loss:
    """The objective as the loop's loss; the module that the loop gives is the one inside `model`."""

    def loss(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # noqa: ARG001
        return objective(outputs(model, batch), batch)

    return loss


def examples(ctx: Context, settings: Settings) -> tuple[Examples, Examples | None]:
    """The training data decoded once, and the data role `select` where the state is chosen on it."""
    if ctx.work is None:
        raise AssertionError("BUG: a training step was run without a work folder")
    train = cached.cached(ctx.data["train"], ctx.work, progress=ctx.progress)
    held = ctx.data["select"] if settings.validation == "select" else None
    return train, cached.cached(held, ctx.work) if held else None


def validation(
    model: TorchModel, held: Examples | None, objective: Objective, metric: Use | None, where: str
) -> Validation:
    """How the states of a model are judged: by a metric of the registry, else by the loss alone."""
    if metric is None:
        return Validation(held)
    plugin = registry.load("metrics", metric.name)
    options = plugin.Options.model_validate(metric.options)
    if plugin.AGAINST != "labels":
        raise OptimizerError(
            f"{where}: the metric '{metric.name}' compares with a baseline", "choose a metric that reads labels"
        )
    better = getattr(options, "better", plugin.BETTER)
    return Validation(held, _score(model, objective, metric.name, plugin, options), better)


def _score(model: TorchModel, objective: Objective, name: str, plugin: Any, options: Any) -> Score:
    def score(module: nn.Module, batches: Iterator[TensorBatch]) -> Mapping[str, float]:  # noqa: ARG001
        rows, losses, counts = [], [], []
        for batch in batches:
            if batch.labels is None:
                raise OptimizerError(
                    f"the metric '{name}' chooses the best state by labels, the data has none that are numbers",
                    "name the label's column (label: COLUMN), or leave metric out: then the loss chooses",
                )
            found = outputs(model, batch)
            losses.append(float(objective(found, batch)[0]))
            counts.append(len(batch.indices))
            arrays = {n: torch_format.as_array(tensor.float().cpu()) for n, tensor in found.items()}
            rows.append(plugin.examples(arrays, _plain(batch), options))
        return {name: plugin.summarize(np.concatenate(rows)), "loss": float(np.average(losses, weights=counts))}

    return score


def _plain(batch: TensorBatch) -> Batch:
    """The labels as the metrics read them."""
    labels = None if batch.labels is None else batch.labels.cpu().numpy()
    return Batch({}, labels, batch.indices, batch.views)
