"""A student, its teacher and what one learns from the other, put together for the loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats.torch import TorchModel
from optimizer.protocols import Context
from optimizer.training import devices, features, labels, matching, student, teacher
from optimizer.training.features import Inner, Pair
from optimizer.training.feeder import in_order
from optimizer.training.labels import Labelled
from optimizer.training.matching import Matched
from optimizer.training.student import Outputs
from optimizer.training.teacher import Teacher
from optimizer.training.values import Examples, Loss, TensorBatch
from optimizer.values import Artifact

if TYPE_CHECKING:
    import torch
    from torch import nn

    from optimizer.training.settings import Distillation

LOOKED = 64  # examples on which it is told what kind of output a teacher gives
Ask = Callable[[TensorBatch], Outputs]
"""Batch -> what the teacher says, under the student's names."""


@dataclass(frozen=True)
class Objective:
    """The loss of a student's outputs: against the teacher's, its inner layers, and the labels."""

    ask: Ask
    matched: list[Matched]
    hard: Labelled | None
    inner: Inner | None
    options: Distillation

    def __call__(self, outputs: Outputs, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum, and its parts before weighting."""
        options = self.options
        told = self.ask(batch)
        parts: dict[str, torch.Tensor] = {}
        weighted: list[torch.Tensor] = []
        if self.matched:
            losses = [match(outputs, told) for match in self.matched]
            parts["outputs"] = sum(losses[1:], losses[0])
            weighted.append((1 - options.hard) * parts["outputs"])
        if self.hard:
            value, more = self.hard(outputs, batch)
            parts |= {"labels": value, **more}
            weighted.append(options.hard * value)
        if self.inner:
            found = self.inner(batch)
            parts |= found
            weights = {"features": options.features_weight, "attention": options.attention_weight}
            weighted += [weights[what] * value for what, value in found.items()]
        return sum(weighted[1:], weighted[0]), {name: part.detach() for name, part in parts.items()}

    def described(self) -> list[str]:
        """What is learnt, one sentence each."""
        soft = f" at temperature {self.options.temperature:g}"
        found = [f"'{m.output}' by {m.kind}{soft if m.kind.startswith('kl') else ''}" for m in self.matched]
        if self.hard:
            found.append(f"labels by {self.hard.kind} of '{self.hard.output}', weight {self.options.hard:g}")
        pairs = self.inner.pairs if self.inner else []
        return found + [f"{pair.what} of '{pair.student}' from '{pair.teacher}'" for pair in pairs]


@dataclass(frozen=True)
class Lesson:
    """What the loop trains (`module`: the student and its projections), by which loss, on what."""

    model: TorchModel
    module: nn.Module
    objective: Objective
    loss: Loss
    examples: Examples
    held: Examples | None
    notes: dict[str, Any]


def prepared(source: Artifact, options: Distillation, ctx: Context, stack: contextlib.ExitStack) -> Lesson:
    """The lesson that a step's options describe; hooks and the teacher's session are closed with `stack`.

    Raises OptimizerError for a teacher whose outputs have another shape, for modules that are not there, and for data
    without the labels that `hard` needs.
    """
    model = student.opened(source, "distill")
    examples, held = student.examples(ctx, options)
    where = devices.device(options)
    model.module.to(where)
    guide = stack.enter_context(teacher.opened(ctx, options.teacher, where))
    first = next(in_order(examples, np.arange(min(LOOKED, len(examples))), LOOKED, where))
    ask, told = _asked(model, guide, first, options)
    losses = _matched(told, first, options)
    hard = (
        labels.labelled(examples, source.signature, options.loss, options.output, 0.0, "distill")
        if options.hard
        else None
    )
    inner, projections = _inner(model, guide, first, options, ctx.seed, stack)
    if losses and inner is None and _asks_again(options, examples):
        ask = _kept(ask, examples, ctx, where)
    objective = Objective(ask, losses, hard, inner, options)
    notes = {"teacher": f"{options.teacher} ({ctx.artifacts[options.teacher].format})", "learns": objective.described()}
    module = model.module if projections is None else _together(model.module, projections)
    return Lesson(model, module, objective, student.loss_of(model, objective), examples, held, notes)


def _asked(model: TorchModel, guide: Teacher, first: TensorBatch, options: Distillation) -> tuple[Ask, Outputs]:
    """The question that is put to the teacher, and its answer to the first batch."""
    if options.outputs == "none":
        names = {}
    else:
        names = matching.pair(model.signature, guide.signature, options.output, options.teacher, "distill")

    def ask(batch: TensorBatch) -> Outputs:
        found = guide(batch)
        return {own: found[theirs] for own, theirs in names.items()}

    told = ask(first)
    teacher.refuse_nan(told, options.teacher, "distill")
    own = student.outputs(model, first)
    for name, tensor in told.items():
        if tensor.shape != own[name].shape:  # sizes that both signatures leave free
            raise OptimizerError(
                f"distill: on the same examples the teacher '{options.teacher}' gives '{names[name]}' as "
                f"{list(tensor.shape)}, the student {list(own[name].shape)}",
                "a teacher needs outputs of the student's shape",
            )
    return ask, told


def _matched(told: Outputs, first: TensorBatch, options: Distillation) -> list[Matched]:
    if options.outputs == "none":
        return []
    known = None if first.labels is None else first.labels.cpu().numpy()
    arrays = {name: tensor.float().cpu().numpy() for name, tensor in told.items()}
    return matching.matched(arrays, known, options.outputs, options.temperature)


def _inner(
    model: TorchModel,
    guide: Teacher,
    first: TensorBatch,
    options: Distillation,
    seed: int,
    stack: contextlib.ExitStack,
) -> tuple[Inner | None, nn.ModuleDict | None]:
    """The losses of inner layers, with projections drawn by seed; (None, None) where none is asked for."""
    import torch

    pairs = [Pair(own, theirs, "features") for own, theirs in options.features.items()]
    pairs += [Pair(own, theirs, "attention") for own, theirs in options.attention.items()]
    if not pairs:
        return None, None
    if guide.model is None:
        raise OptimizerError(
            f"distill: the teacher '{options.teacher}' is a compiled model, whose inner layers cannot be read",
            "name a teacher before its export (original, or a VARIANT), or leave features and attention out",
        )
    seen = stack.enter_context(features.watched(model.module, [p.student for p in pairs], "student", "distill"))
    other = stack.enter_context(features.watched(guide.model.module, [p.teacher for p in pairs], "teacher", "distill"))
    features.see(model, first)
    features.see(guide.model, first)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projections = features.projections(pairs, seen, other, options.heads, "distill")
    return Inner(pairs, seen, other, projections, options.heads), projections


def _together(module: nn.Module, projections: nn.ModuleDict) -> nn.Module:
    """Both as one module, so that both are trained, averaged and stored in checkpoints."""
    from torch import nn

    return nn.ModuleDict({"student": module, "projections": projections})


def _asks_again(options: Distillation, examples: Examples) -> bool:
    """Whether the teacher would be asked about the same example more than once, always in the same words."""
    changed = options.augment.flip or options.augment.crop
    draws = options.steps * options.batch / len(examples) if options.steps else options.epochs
    return not changed and draws > 1


def _kept(ask: Ask, examples: Examples, ctx: Context, where: torch.device) -> Ask:
    """The teacher's answers kept on disk where that is possible; examples of like length are asked together."""
    assert ctx.work is not None
    lengths = getattr(examples, "lengths", None)
    order = np.arange(len(examples)) if lengths is None else np.argsort(lengths, kind="stable")
    return teacher.kept(ask, examples, order, ctx.work, where, ctx.progress) or ask
