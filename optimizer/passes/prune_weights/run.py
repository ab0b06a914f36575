"""From a share or a pattern to a module with zeros, which it keeps in whatever training follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optimizer.errors import OptimizerError
from optimizer.formats import pruned, sparsity
from optimizer.formats import torch as torch_format
from optimizer.formats.edits import find
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_weights.layers import Layer, layers_of, norms
from optimizer.passes.prune_weights.options import Options
from optimizer.protocols import Context
from optimizer.training import recovery
from optimizer.values import Artifact

if TYPE_CHECKING:
    import torch

SMALL = 0.5  # share of the model's weights below which sparse layers make little of it sparse


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the module with its least important weights zero.

    Raises OptimizerError for a compiled model, and for one without a layer that can become sparse.
    """
    whole = pruned.opened(source, "prune.weights")
    model = pruned.edited(whole, [])
    layers, dense = layers_of(model, options)
    for step in range(options.steps):
        known = norms(model, layers, options, ctx) if options.method == "wanda" else {}
        if options.method == "wanda":
            dense |= {layer.path: "no example reached it" for layer in layers if layer.path not in known}
            layers = [layer for layer in layers if layer.path in known]
        if not layers:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(dense.items())[:5])
            raise OptimizerError(
                f"prune.weights: {model.record.origin} has no layer that can become sparse ({reasons or 'none'})",
                "linear layers and convolutions can; see keep and pattern",
            )
        _zero(model, layers, known, options, _share(options, step))
        if options.recover and step + 1 < options.steps:
            _recover(model, whole, layers, options, ctx, step)
    _refuse_other(model, layers, options)
    _note(ctx, whole, model, layers, dense, options)
    record = dataclasses.replace(model.record, masked=tuple(layer.weight for layer in layers))
    torch_format.write_trained(record, model.module, out)


def _share(options: Options, step: int) -> float:
    """The share of zeros after a step: most of them come early, while there is much to spare (Zhu and Gupta 2017,
    arXiv:1710.01878)."""
    return float(options.sparsity or 0) * (1 - (1 - (step + 1) / options.steps) ** 3)


def _zero(
    model: TorchModel, layers: Sequence[Layer], known: Mapping[str, torch.Tensor], options: Options, share: float
) -> None:
    """Make the least important weights zero, in place."""
    import torch

    weights = {layer.path: find(model.module, layer.weight) for layer in layers}
    scores = {path: w.detach().abs() * known.get(path, 1.0) for path, w in weights.items()}
    least: float | None = None
    if options.scope == "global":
        everything = torch.cat([score.flatten() for score in scores.values()])
        least = float(everything.kthvalue(max(1, int(share * len(everything)))).values)
    for path, weight in weights.items():
        score = scores[path]
        with torch.no_grad():
            if options.runs:
                lost = _beyond(score, *options.runs)
            elif least is not None:
                lost = score <= least
            else:
                lost = _smallest(score.reshape(1, -1) if options.method == "magnitude" else score.flatten(1), share)
            weight.masked_fill_(lost.reshape(weight.shape), 0.0)


def _smallest(rows: torch.Tensor, share: float) -> torch.Tensor:
    """Where the smallest scores of each row are."""
    import torch

    lost = torch.zeros_like(rows, dtype=torch.bool)
    lost.scatter_(1, rows.argsort(dim=1, stable=True)[:, : int(share * rows.shape[1])], True)
    return lost


def _beyond(score: torch.Tensor, nonzero: int, width: int) -> torch.Tensor:
    """Where, in every run of `width` input channels, the scores beyond the `nonzero` largest are."""
    import torch

    rows = sparsity.lanes(score, width)
    lost = torch.zeros_like(rows, dtype=torch.bool)
    lost.scatter_(1, rows.argsort(dim=1, stable=True)[:, : width - nonzero], True)
    moved = score.movedim(1, -1)
    return lost.reshape(moved.shape).movedim(-1, 1)


def _recover(
    model: TorchModel, whole: TorchModel, layers: Sequence[Layer], options: Options, ctx: Context, step: int
) -> None:
    """Train the rest while the zeros stay."""
    assert options.recover is not None
    held = sparsity.hold(model.module, [layer.weight for layer in layers])
    history = recovery.recover(model, whole, options.recover, ctx, f"recovery{step}")
    for handle in held:
        handle.remove()
    ctx.note(f"recovery.{step + 1}", history.document())


def _refuse_other(model: TorchModel, layers: Sequence[Layer], options: Options) -> None:
    """Look, don't believe: a kernel that trusts the pattern computes nonsense without it."""
    for layer in layers:
        if options.runs and not sparsity.follows(find(model.module, layer.weight), *options.runs):
            raise AssertionError(f"BUG: {layer.weight} does not follow the pattern {options.pattern}")


def _note(
    ctx: Context,
    whole: TorchModel,
    model: TorchModel,
    layers: Sequence[Layer],
    dense: Mapping[str, str],
    options: Options,
) -> None:
    before, after = (list(m.module.parameters()) for m in (whole, model))
    zeros = {layer.path: (find(model.module, layer.weight) == 0).float().mean() for layer in layers}
    ctx.note("sparsity", {path: round(float(share), 4) for path, share in zeros.items()})
    ctx.note("left dense", dict(dense))
    ctx.note("size", {
        "measure": "bytes of all parameters after zlib; a claim of size, not of time",
        "before": sparsity.compressed(before),
        "after": sparsity.compressed(after),
    })  # fmt: skip
    share = sum(find(model.module, layer.weight).numel() for layer in layers) / max(sum(t.numel() for t in after), 1)
    if share < SMALL:
        ctx.warn(
            f"the layers that became sparse hold {share:.1%} of the model's weights; linear layers and convolutions "
            "can, all others stay as they are"
        )
    if options.pattern:
        ctx.note("pattern", f"{options.pattern} along the input channels, verified in every layer but those left dense")
