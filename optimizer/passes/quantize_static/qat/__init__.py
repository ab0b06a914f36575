"""qat: quantization-aware training of what quantize.static would write, with learnt step sizes, after a teacher.

It works on the exported graph: what was learnt goes back into its initializers and through the same Q/DQ writer, and
nothing is calibrated again. See `fake.py` beside this file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer import machine
from optimizer.errors import OptimizerError
from optimizer.passes.quantize_static.qat.options import NEAR, Options
from optimizer.protocols import Context, Feeds
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    from torch import nn

    from optimizer.passes.quantize_static.qat.agreement import Agreement
    from optimizer.passes.quantize_static.qat.fake import Fake

VERSION = 2
CONSUMES = ("onnx",)
PRODUCES = "onnx"
TOOLS = ("onnx", "onnxruntime", "torch")
DATA = ("calibrate", "train", "select")
SCHEMED = True
LIMIT = None  # it changes numbers on purpose; the gates decide
SEARCH: tuple[dict[str, object], ...] = ()  # a search tries what takes seconds

TOLERANCE = 1e-4  # of the largest output: float32 in another library, sums in another order
LOOKED = 8  # calibration samples on which module and runtime are compared
VNNI = frozenset({"avx512_vnni", "avx_vnni"})
QUANTIZERS = ("quantize.static", "quantize.dynamic", "quantize.weights", "qat")  # which leave no float weights


def data(options: Options) -> tuple[str, ...]:
    """`select` is read where the best state is chosen on it."""
    return DATA if options.validation == "select" else DATA[:2]


def artifacts(options: Options) -> tuple[str, ...]:
    """The teacher, where it is not the model itself."""
    return () if options.teacher in NEAR else (options.teacher,)


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    if scheme.format not in CONSUMES or not scheme.ops:
        return f"qat writes Q/DQ pairs into ONNX, and {scheme.target} does not say where it takes them up"
    if options.quantize.dtype != "int8":
        return (
            f"qat learns steps of one size, which {options.quantize.dtype} has not; accepted: quantize: {{dtype: int8}}"
        )
    return None


def misplaced(before: Sequence[str]) -> tuple[str, str] | None:
    """Why this step cannot follow the steps `before` it, and what to write instead; None where it can."""
    found = next((name for name in before if name in QUANTIZERS), None)
    if found is None:
        return None
    return (
        f"it quantizes the float model itself, which '{found}' has quantized by then",
        f"leave '{found}' out; how training starts is said inside the step: qat: {{quantize: {{method: ..., ...}}}}, "
        "with the options of quantize.static; a float step such as finetune, distill or prune may come before it",
    )


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the quantized model with what training has found.

    Raises OptimizerError for a model that cannot be differentiated or has nothing to quantize, for missing data, and
    for a loss that becomes NaN or diverges.
    """
    from optimizer.formats import onnx_ready, onnx_torch
    from optimizer.passes.quantize_static import onnx as static
    from optimizer.passes.quantize_static.qat import agreement, fake

    _check(source, options, ctx)
    original = onnx_torch.convert(onnx_ready.prepared(source), (), who="qat")
    _look(original, source, ctx)
    ready = static.prepare(source, options.quantize, ctx, ctx.wanted("qat"))
    made = fake.build(ready)
    module = made.module()
    _train(module, made, original, source, options, ctx)
    values = onnx_torch.values_of(module)
    learnt = made.learnt(values)
    ctx.note("learnt", {"weights": made.put(ready.model, values), "grids": len(learnt.tensors) + len(learnt.weights)})
    ready.insert(ready.model, learnt=learnt)
    _agree(agreement.measure(ready.model, made, module, _samples(source, ctx)), ctx)
    static.conclude(ready, ready.model, ctx, out)


def _agree(found: Agreement, ctx: Context) -> None:
    """Note how far the runtime is from what was trained, and warn where that is not rounding."""
    ctx.note("agreement", found.document())
    doubt = found.doubt()
    if doubt is None:
        return
    here = machine.here()
    if here.architecture == "x86_64" and not VNNI & set(here.isa):
        doubt += "; without VNNI 8-bit products saturate here, which quantize: {reduce_range: true} prevents"
    ctx.warn(doubt)


def _check(source: Artifact, options: Options, ctx: Context) -> None:
    """Raise OptimizerError for data and models that cannot be trained."""
    missing = [role for role in data(options) if role not in ctx.data]
    if missing:
        raise OptimizerError(
            f"qat needs data for {' and '.join(data(options))}; '{missing[0]}' is missing",
            f"add data: {{{missing[0]}: <card/split or file>}}; random data is never used instead",
        )
    if source.signature.batch_symbol() is None:
        shapes = ", ".join(f"{spec.name}: {spec}" for spec in source.signature.inputs)
        raise OptimizerError(
            f"qat trains in batches, and the model takes one batch size only ({shapes})",
            "let the first dimension of every input be free, e.g. float32[batch,3,32,32]",
        )


def _samples(source: Artifact, ctx: Context) -> Iterator[Feeds]:
    from optimizer.formats.calibration import Calibration

    return Calibration(ctx.data["calibrate"], source.signature, LOOKED).feeds(together=True)


def _look(module: nn.Module, source: Artifact, ctx: Context) -> None:
    """Raise OptimizerError when the module does not compute what the runtime does: it would learn something else."""
    import numpy as np
    import torch

    from optimizer.formats import onnx as onnx_format
    from optimizer.formats import onnx_torch, taps

    session = onnx_format.inference_session(source.path, ctx.threads)
    names = [spec.name for spec in source.signature.outputs]
    for feeds in _samples(source, ctx):
        with torch.no_grad():
            found = module(onnx_torch.feeds_of(feeds))
        for name, wanted in zip(names, taps.run(session, names, feeds), strict=True):
            error = np.abs(found[name].numpy() - wanted).max(initial=0) / max(np.abs(wanted).max(initial=0), 1e-12)
            if not error <= TOLERANCE:
                raise OptimizerError(
                    f"qat: in PyTorch the graph gives another '{name}' than in ONNX Runtime, off by {error:.3g} of its "
                    f"largest value; the tolerance is {TOLERANCE:g}",
                    "an operator is used in a form that is not covered; train the model before it is exported",
                )


def _train(
    module: nn.Module, made: Fake, original: nn.Module, source: Artifact, options: Options, ctx: Context
) -> None:
    """Train the module in place; its curves go into the record."""
    from optimizer.passes.quantize_static.qat import objective
    from optimizer.training import loop, student
    from optimizer.training.values import Validation

    train, held = student.examples(ctx, options)
    with contextlib.ExitStack() as stack:
        words, loss = objective.prepared(original, source.signature, train, options, ctx, stack)
        ctx.note("learns", words)
        history = loop.train(
            module,
            loss,
            train,
            options,
            seed=ctx.seed,
            work=ctx.work,
            validation=Validation(held),
            rates=lambda name: made.rate(name, module, options.optimizer),
            progress=ctx.progress,
            warn=ctx.warn,
        )
    ctx.note("training", history.document())
