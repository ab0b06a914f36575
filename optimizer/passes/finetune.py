"""finetune: train the PyTorch model on labelled data, before it is exported. Data: `train`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from optimizer.formats import torch as torch_format
from optimizer.protocols import Context
from optimizer.recipe import UseField
from optimizer.training.settings import Labels, Settings
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


class Options(Settings):
    """How the model is trained, and against what."""

    loss: Labels = Field("auto", description="auto: what fits the output and the labels, which the record says")
    output: str | None = Field(None, description="the output that is compared with the labels; default: the first")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of cross-entropy")
    metric: UseField | None = Field(None, description="metric that chooses the best state; default: the loss")


def data(options: Options) -> tuple[str, ...]:
    """`select` is read where the best state is chosen on it."""
    return DATA if options.validation == "select" else ("train",)


def stale(path: Path, options: Options) -> bool:  # noqa: ARG001  # the protocol's signature
    """Whether the user's files that the stored module is rebuilt from have moved."""
    return torch_format.moved(path)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Train, and write the module's new weights beside its record.

    Raises OptimizerError for data without labels, labels that do not fit, and a loss that becomes NaN or diverges.
    """
    from optimizer.training import labels, loop, student

    model = student.opened(source, "finetune")
    train, held = student.examples(ctx, options)
    given = (options.loss, options.output, options.label_smoothing)
    objective = labels.labelled(train, source.signature, *given, "finetune")
    ctx.note("loss", f"{objective.kind} of '{objective.output}'")
    history = loop.train(
        model.module,
        student.loss_of(model, objective),
        train,
        options,
        seed=ctx.seed,
        work=ctx.work,
        validation=student.validation(model, held, objective, options.metric, "finetune"),
        progress=ctx.progress,
        warn=ctx.warn,
    )
    ctx.note("training", history.document())
    torch_format.write_trained(model.record, model.module, out)
