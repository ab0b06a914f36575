"""qat: quantization-aware training of what quantize.static would write, with learnt step sizes, towards the float model.

It works on the exported graph: what was learnt goes back into its initializers and through the same Q/DQ writer, and
nothing is calibrated again. See `fake.py` beside this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.errors import OptimizerError
from optimizer.passes.quantize_static.qat.options import Options
from optimizer.protocols import Context
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
CONSUMES = ("onnx",)
PRODUCES = "onnx"
TOOLS = ("onnx", "onnxruntime", "torch")
DATA = ("calibrate", "train")
SCHEMED = True
LIMIT = None
SEARCH: tuple[dict[str, object], ...] = ()  # hours of training are asked for by name

TOLERANCE = 1e-4  # of the largest output: float32 on another library, sums in another order
LOOKED = 8  # calibration samples on which the module and the runtime are compared


def refuse(options: Options, scheme: QuantScheme) -> str | None:
    """Why this step cannot be done for a target, or None."""
    del options
    if scheme.format not in CONSUMES or not scheme.ops:
        return f"qat writes Q/DQ pairs into ONNX, and {scheme.target} does not say which of them it takes up"
    return None


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the quantized model with what training has found."""
    from optimizer.formats import onnx_torch
    from optimizer.passes.quantize_static import onnx as static
    from optimizer.passes.quantize_static.qat import agreement, fake

    _check(source, ctx)
    ready = static.prepare(source, options.quantize, ctx, ctx.wanted("qat"))
    made = fake.build(ready)
    module = made.module()
    _train(module, made, source, options, ctx)
    values = onnx_torch.values_of(module)
    ctx.note("learnt", {"weights": made.put(ready.model, values), "steps": len({p.scale for p in made.pairs.values()})})
    ready.insert(ready.model, learnt=made.learnt(values))
    found = agreement.measure(ready.model, made, module, _samples(source, ctx))
    ctx.note("agreement", found)
    static.conclude(ready, ready.model, ctx, out)


def _check(source: Artifact, ctx: Context) -> None:
    """Raise OptimizerError for data and models that cannot be trained."""
    missing = [role for role in DATA if role not in ctx.data]
    if missing:
        raise OptimizerError(
            f"qat needs data to calibrate with and to train on; '{missing[0]}' is missing",
            f"add data: {{{missing[0]}: <card/split or file>}}; random data is never used instead",
        )
    if source.signature.batch_symbol() is None:
        shapes = ", ".join(f"{spec.name}: {spec}" for spec in source.signature.inputs)
        raise OptimizerError(
            f"qat trains in batches, and the model takes one batch size only ({shapes})",
            "let the first dimension of every input be free, e.g. float32[batch,3,32,32]",
        )


def _samples(source: Artifact, ctx: Context) -> Any:
    from optimizer.formats.calibration import Calibration

    return Calibration(ctx.data["calibrate"], source.signature, LOOKED).feeds(together=True)


def _train(module: nn.Module, made: Any, source: Artifact, options: Options, ctx: Context) -> None:
    """Train the module in place; its curves go into the record."""
    raise NotImplementedError
