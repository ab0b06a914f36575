"""What fake quantization is trained towards: a teacher's outputs, labels, or a mix of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.passes.quantize_static.qat.options import Options
from optimizer.protocols import Session
from optimizer.training import labels
from optimizer.training.values import Examples, Loss, TensorBatch
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

Outputs = Mapping[str, "torch.Tensor"]
Teacher = Callable[[TensorBatch], Outputs]


def objective(teacher: Teacher | None, options: Options, data: Examples, signature: Signature) -> tuple[str, Loss]:
    """The loss in words, and itself. Raises OptimizerError for labels that are wanted and missing, or do not fit."""
    labelled = data.at(np.arange(1)).labels is not None
    compared = labels.labelled(data, signature, "auto", None, 0.0, "qat") if labelled or options.labelled else None
    classes = compared is not None and compared.kind == "cross-entropy"
    distance = "kl" if options.loss == "kl" or (options.loss == "auto" and classes) else "mse"
    apart, share = {"kl": kl, "mse": mse}[distance], options.labelled

    def loss(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]:
        found = module(batch.feeds)
        terms: list[torch.Tensor] = []
        parts: dict[str, torch.Tensor | float] = {}
        if teacher is not None and share < 1:
            away = apart(found, teacher(batch), options.temperature)
            parts["teacher"] = away.detach()
            terms.append(away * (1 - share))
        if compared is not None and share:
            wrong, more = compared(dict(found), batch)
            parts |= {"labels": wrong.detach(), **more}
            terms.append(wrong * share)
        return sum(terms[1:], terms[0]), parts

    words = [f"{distance} to the teacher"] if share < 1 else []
    words += [f"{share:g} x {compared.kind} of '{compared.output}'"] if compared is not None and share else []
    return ", ".join(words), loss


def beside(module: nn.Module) -> Teacher:
    """A module as the teacher; it follows the batches to their device."""

    def outputs(batch: TensorBatch) -> Outputs:
        import torch

        device = next(iter(batch.feeds.values())).device
        if next(module.buffers()).device != device:
            module.to(device)
        with torch.no_grad():
            found: Outputs = module(batch.feeds)
        return found

    return outputs


def opened(session: Session, name: str, signature: Signature) -> Teacher:
    """An opened artifact as the teacher. Raises OptimizerError when its outputs are not the model's."""
    theirs, ours = ({s.name: s.shape[1:] for s in found.outputs} for found in (session.signature, signature))
    if theirs != ours:
        shown = ("; ".join(f"{n} {list(shape)}" for n, shape in found.items()) for found in (theirs, ours))
        teacher, model = shown
        raise OptimizerError(
            f"qat: the teacher '{name}' has the outputs {teacher}, the model has {model}",
            "name a teacher with the same outputs, or teacher: source",
        )

    def outputs(batch: TensorBatch) -> Outputs:
        import torch

        wanted = {spec.name for spec in session.signature.inputs}
        found = session({n: t.cpu().numpy() for n, t in batch.feeds.items() if n in wanted})
        device = next(iter(batch.feeds.values())).device
        return {n: torch.from_numpy(np.array(a)).to(device) for n, a in found.items()}

    return outputs


def kl(found: Outputs, wanted: Outputs, temperature: float) -> torch.Tensor:
    """The divergence of the classes' probabilities, summed over the outputs (Hinton et al. 2015, arXiv 1503.02531)."""
    import torch

    terms = []
    for name, target in wanted.items():
        if target.is_floating_point():
            q, p = (torch.log_softmax(t.float().flatten(0, -2) / temperature, -1) for t in (found[name], target))
            apart = torch.nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)
            terms.append(apart * temperature**2)
    return torch.stack(terms).sum()


def mse(found: Outputs, wanted: Outputs, temperature: float) -> torch.Tensor:
    """The squared error as a share of the teacher's mean square, summed over the outputs."""
    import torch

    del temperature
    terms = []
    for name, target in wanted.items():
        if target.is_floating_point():
            size = target.float().square().mean().clamp_min(1e-12)
            terms.append((found[name].float() - target.float()).square().mean() / size)
    return torch.stack(terms).sum()
