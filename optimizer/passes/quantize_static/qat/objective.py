"""What fake quantization is trained towards: the float model's outputs, labels, or a mix of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.passes.quantize_static.qat.options import Options
from optimizer.protocols import Dataset
from optimizer.training.values import Loss, TensorBatch
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn


def objective(teacher: nn.Module | None, options: Options, data: Dataset, signature: Signature) -> Loss:
    """The loss for these options. Raises OptimizerError where labels are wanted and there are none, or not classes."""
    scores, classes = signature.outputs[0].name, _classes(data)
    if options.labelled and not classes:
        raise OptimizerError(
            f"qat: the loss is to be of labels, and '{data.name}' has no classes for labels",
            "name their column in the data (label), or learn from the teacher alone (labels: 0)",
        )
    apart = kl if options.loss == "kl" or (options.loss == "auto" and classes) else mse
    share = options.labelled

    def loss(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]:
        import torch

        found = module(batch.feeds)
        parts: dict[str, torch.Tensor] = {}
        total: torch.Tensor | float = 0.0
        if teacher is not None:
            parts["teacher"] = apart(found, _outputs(teacher, batch), options.temperature)
            total = parts["teacher"] * (1 - share)
        if share:
            assert batch.labels is not None
            parts["labels"] = torch.nn.functional.cross_entropy(found[scores].float(), batch.labels.long())
            total = total + parts["labels"] * share
        assert not isinstance(total, float)
        return total, {name: part.detach() for name, part in parts.items()}

    return loss


def _classes(data: Dataset) -> bool:
    """Whether each sample has a class for a label."""
    first = next(iter(data.batches(1, limit=1)))
    return first.labels is not None and np.asarray(first.labels).dtype.kind in "iu" and first.views == 1


def _outputs(teacher: nn.Module, batch: TensorBatch) -> dict[str, torch.Tensor]:
    import torch

    device = next(iter(batch.feeds.values())).device
    if next(teacher.buffers()).device != device:
        teacher.to(device)
    with torch.no_grad():
        found: dict[str, torch.Tensor] = teacher(batch.feeds)
    return found


def kl(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """The divergence of the classes' probabilities, summed over the outputs (Hinton et al. 2015, arXiv 1503.02531)."""
    import torch

    total = torch.zeros((), device=next(iter(found.values())).device)
    for name, target in wanted.items():
        if target.is_floating_point():
            q, p = (torch.log_softmax(t.float().flatten(0, -2) / temperature, -1) for t in (found[name], target))
            total = total + torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True) * temperature**2
    return total


def mse(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """The squared error as a share of the teacher's mean square, summed over the outputs."""
    import torch

    del temperature
    total = torch.zeros((), device=next(iter(found.values())).device)
    for name, target in wanted.items():
        if target.is_floating_point():
            error = (found[name].float() - target.float()).square().mean()
            total = total + error / target.float().square().mean().clamp_min(1e-12)
    return total
