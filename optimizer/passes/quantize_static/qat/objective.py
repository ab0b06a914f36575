"""What fake quantization is trained towards: a teacher's outputs, labels, or a mix of both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from optimizer.passes.quantize_static.qat.options import Options
from optimizer.protocols import Context
from optimizer.training import devices, labels, matching, teacher
from optimizer.training.feeder import in_order
from optimizer.training.matching import Matched
from optimizer.training.student import Outputs
from optimizer.training.values import Examples, Loss, TensorBatch
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch
    from torch import nn

LOOKED = 64  # examples on which it is told what kind of output a teacher gives
Ask = Callable[[TensorBatch], Outputs]
"""Batch -> what the teacher says, under the model's names."""


def prepared(
    original: nn.Module,
    signature: Signature,
    examples: Examples,
    options: Options,
    ctx: Context,
    stack: contextlib.ExitStack,
) -> tuple[list[str], Loss]:
    """The loss in words, and itself; `original` is the float model, a teacher's session is closed with `stack`.

    Raises OptimizerError for a teacher with other outputs, and for labels that are wanted and missing, or do not fit.
    """
    share = options.labelled
    hard = labels.labelled(examples, signature, options.loss, None, 0.0, "qat") if share else None
    words = [f"labels by {hard.kind} of '{hard.output}', weight {share:g}"] if hard else []
    if share == 1:
        return words, _loss(None, [], hard, share)
    where = devices.device(options)
    ask = _asked(original, signature, options, where, ctx, stack)
    first = next(in_order(examples, np.arange(min(LOOKED, len(examples))), LOOKED, where))
    told = ask(first)
    teacher.refuse_nan(told, options.teacher, "qat")
    known = None if first.labels is None else first.labels.cpu().numpy()
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in told.items()}
    matched = matching.matched(arrays, known, options.outputs, options.temperature)
    return [f"'{m.output}' by {m.kind}" for m in matched] + words, _loss(ask, matched, hard, share)


def _asked(
    original: nn.Module,
    signature: Signature,
    options: Options,
    where: torch.device,
    ctx: Context,
    stack: contextlib.ExitStack,
) -> Ask:
    """The question that is put to the teacher."""
    import torch

    if options.teacher == "source":
        original.to(where)

        def beside(batch: TensorBatch) -> Outputs:
            with torch.no_grad():
                found: Outputs = original(batch.feeds)
            return {name: tensor for name, tensor in found.items() if tensor.is_floating_point()}

        return beside
    guide = stack.enter_context(teacher.opened(ctx, options.teacher, where))
    names = matching.pair(signature, guide.signature, None, options.teacher, "qat")

    def ask(batch: TensorBatch) -> Outputs:
        found = guide(batch)
        return {own: found[theirs] for own, theirs in names.items()}

    return ask


def _loss(ask: Ask | None, matched: list[Matched], hard: labels.Labelled | None, share: float) -> Loss:
    def loss(module: nn.Module, batch: TensorBatch) -> tuple[torch.Tensor, Mapping[str, torch.Tensor | float]]:
        found = module(batch.feeds)
        parts: dict[str, torch.Tensor] = {}
        weighted: list[torch.Tensor] = []
        if ask is not None:
            told = ask(batch)
            losses = [match(found, told) for match in matched]
            parts["outputs"] = sum(losses[1:], losses[0])
            weighted.append((1 - share) * parts["outputs"])
        if hard is not None:
            value, more = hard(found, batch)
            parts |= {"labels": value, **more}
            weighted.append(share * value)
        return sum(weighted[1:], weighted[0]), {name: part.detach() for name, part in parts.items()}

    return loss
