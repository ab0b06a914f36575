"""Recovery: a module that lost a part learns to give the outputs of the one that it was made from. No labels needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from optimizer import fingerprint
from optimizer.formats.torch import TorchModel
from optimizer.protocols import Context
from optimizer.training import cached, loop, student
from optimizer.training.settings import Settings
from optimizer.training.student import Outputs
from optimizer.training.values import History, TensorBatch

if TYPE_CHECKING:
    import torch
    from torch import nn


def recover(model: TorchModel, whole: TorchModel, settings: Settings, ctx: Context, stage: str) -> History:
    """Train the module of `model` in place on the data role `train`; returns the curves.

    The loss is the squared error of all outputs relative to their square (Ba and Caruana 2014, arXiv:1312.6184).
    `stage` tells several trainings of one step apart. Raises OptimizerError when the loss becomes NaN or diverges.
    """
    if ctx.work is None:
        raise AssertionError("BUG: a training step was run without a work folder")
    examples = cached.cached(ctx.data["train"], ctx.work)

    def loss(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        import torch

        whole.module.to(next(module.parameters()).device)
        with torch.no_grad():
            wanted = student.outputs(whole, batch)
        return _error(student.outputs(model, batch), wanted), {}

    return loop.train(
        model.module,
        loss,
        examples,
        settings,
        seed=ctx.seed,
        work=_folder(ctx.work, stage),
        identity=fingerprint.of_value([stage, [str(edit) for edit in model.record.edits]]),
        progress=ctx.progress,
        warn=ctx.warn,
    )


def _folder(work: Path, stage: str) -> Path:
    found = work / stage
    found.mkdir(parents=True, exist_ok=True)
    return found


def _error(found: Outputs, wanted: Outputs) -> torch.Tensor:
    import torch

    terms = [
        (found[name] - tensor).pow(2).sum() / tensor.pow(2).sum().clamp(min=1e-12)
        for name, tensor in wanted.items()
        if tensor.dtype.is_floating_point
    ]
    return torch.stack(terms).sum()
