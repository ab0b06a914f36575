"""distill: train the PyTorch model to answer as a teacher does, with labels or without. Data: `train`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from optimizer.formats import torch as torch_format
from optimizer.protocols import Context
from optimizer.training.settings import Distillation
from optimizer.values import Artifact

VERSION = 2
CONSUMES = ("torch",)
PRODUCES = "torch"
TOOLS = ("torch", "safetensors")
DATA = ("train", "select")
SCHEMED = False
LIMIT = None  # it changes numbers on purpose; the gates decide
EAGER = True
SEARCH: tuple[dict[str, object], ...] = ()  # a search tries what takes seconds
Options = Distillation


def data(options: Distillation) -> tuple[str, ...]:
    """`select` is read where the best state is chosen on it."""
    return DATA if options.validation == "select" else ("train",)


def artifacts(options: Distillation) -> tuple[str, ...]:
    """The teacher, in the words of the recipe."""
    return (options.teacher,)


def stale(path: Path, options: Distillation) -> bool:  # noqa: ARG001  # the protocol's signature
    """Whether the user's files that the stored module is rebuilt from have moved."""
    return torch_format.moved(path)


def run(source: Artifact, options: Distillation, ctx: Context, out: Path) -> None:
    """Train, and write the module's new weights beside its record.

    Raises OptimizerError for a teacher whose outputs have another shape, modules that are not there, data without the
    labels that `hard` needs, and a loss that becomes NaN or diverges.
    """
    from optimizer.training import distillation, loop, student

    with contextlib.ExitStack() as stack:
        lesson = distillation.prepared(source, options, ctx, stack)
        for name, value in lesson.notes.items():
            ctx.note(name, value)
        history = loop.train(
            lesson.module,
            lesson.loss,
            lesson.examples,
            options,
            seed=ctx.seed,
            work=ctx.work,
            validation=student.validation(lesson.model, lesson.held, lesson.objective, options.metric, "distill"),
            progress=ctx.progress,
            warn=ctx.warn,
        )
        ctx.note("training", history.document())
        torch_format.write_trained(lesson.model.record, lesson.model.module, out)
