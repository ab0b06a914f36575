"""From a goal to a pruned module: find groups, try each, rank their channels, remove until the goal is met."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import nodes, pruned, sparsity
from optimizer.formats import torch as torch_format
from optimizer.formats.edits import find
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_channels import goals, scores, trial
from optimizer.passes.prune_channels.cutting import Removal
from optimizer.passes.prune_channels.goals import Stage
from optimizer.passes.prune_channels.groups import Group, find_groups, is_root
from optimizer.passes.prune_channels.layers import shape_of
from optimizer.passes.prune_channels.options import Options
from optimizer.passes.prune_channels.trial import Trial
from optimizer.protocols import Context
from optimizer.training import recovery
from optimizer.training.settings import Settings
from optimizer.values import Artifact


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the module without its least important channels.

    Raises OptimizerError for a compiled model, one without a group that can be pruned, and a ratio that takes whole
    layers. A cost that cannot be reached is warned of, and the nearest that can is kept.
    """
    model = whole = pruned.opened(source, "prune.channels")
    costs = goals.costs_of(whole, ctx)
    refused: dict[str, str] = {}
    for step in range(options.steps):
        groups, reasons = _usable(model, options, ctx)
        refused |= reasons
        if not groups and step:
            break  # earlier steps have left single channels everywhere
        if not groups:
            raise _nothing(model, refused)
        found = scores.score(model, groups, options, ctx)
        ranked = [group for group in groups if group.name in found]
        stage = Stage(model, ranked, found, options, costs, step / options.steps, (step + 1) / options.steps)
        model = _held(stage, goals.chosen(stage, ctx), ctx)
        if options.recover and step + 1 < options.steps:
            model = _recovered(model, whole, options.recover, ctx, step)
    _note(ctx, whole, model, refused, options)
    pruned.write(model, out)


def _usable(model: TorchModel, options: Options, ctx: Context) -> tuple[list[Group], dict[str, str]]:
    """The groups whose removal was tried and holds, and the others with their reasons."""
    found = find_groups(model, ctx.samples[0])
    refused = dict(found.refused)
    kept = _kept(model, options)
    usable, trying = [], trial.begun(model, ctx.samples)
    for done, group in enumerate(found.groups):
        ctx.progress(done, len(found.groups))
        reason = "kept as asked" if _touches(group, kept) else _tried(trying, group)
        if reason is None:
            usable.append(group)
        else:
            refused[group.name] = reason
    return usable, refused


def _nothing(model: TorchModel, refused: Mapping[str, str]) -> OptimizerError:
    listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:5])
    return OptimizerError(
        f"prune.channels: {model.record.origin} has no channels that can be pruned ({listed or 'no layer'})",
        "prune.depth drops whole blocks, prune.weights needs no structure",
    )


def _tried(trying: Trial, group: Group) -> str | None:
    """Why half of a group cannot leave; half of it shows what fewer might not."""
    if len(group.units) < 2:
        return "its channels cannot be told apart" if group.width > 1 else "it has one channel"
    half = [channel for unit in group.units[: len(group.units) // 2] for channel in unit]
    return trying.fault({group: half})


def _kept(model: TorchModel, options: Options) -> set[str]:
    return selectors.select(options.keep, nodes.torch_nodes(model.module), "prune.channels, keep")


def _touches(group: Group, kept: set[str]) -> bool:
    """Whether a layer of the group is a kept module, or within one."""
    layers = {member.layer for member in group.members}
    return any(layer == k or layer.startswith(f"{k}.") for layer in layers for k in kept)


def _held(stage: Stage, chosen: Removal, ctx: Context) -> TorchModel:
    """The model without all chosen channels; a group that only fails together with others is left whole."""
    trying = trial.begun(stage.model, ctx.samples)
    if not chosen or trying.fault(chosen) is None:
        return stage.without(chosen)
    held: dict[Group, Sequence[int]] = {}
    for group, channels in chosen.items():
        reason = trying.fault({**held, group: channels})
        if reason is None:
            held[group] = tuple(channels)
        else:
            ctx.warn(f"{group.name} is left whole: {reason}")
    return stage.without(held)


def _recovered(model: TorchModel, whole: TorchModel, settings: Settings, ctx: Context, step: int) -> TorchModel:
    """The model after training on the outputs of the whole one."""
    history = recovery.recover(model, whole, settings, ctx, f"recovery{step}")
    ctx.note(f"recovery.{step + 1}", history.document())
    return TorchModel(model.built, dataclasses.replace(model.record, state=torch_format.TRAINED))


def _note(ctx: Context, whole: TorchModel, model: TorchModel, refused: Mapping[str, str], options: Options) -> None:
    before, after = _widths(whole), _widths(model)
    ctx.note("channels", {name: [count, after[name]] for name, count in before.items() if after[name] != count})
    ctx.note("left whole", dict(refused))
    ctx.note("parameters", {"before": pruned.parameters(whole), "after": pruned.parameters(model)})
    ctx.note("macs", {"before": pruned.macs_of(whole, ctx), "after": pruned.macs_of(model, ctx)})
    broken = [name for name in whole.record.masked if _follows(whole, name) and not _follows(model, name)]
    if broken:
        ctx.warn(
            f"{len(broken)} layers no longer follow the pattern 2:4 that prune.weights gave them: channels inside "
            "its runs have left; put prune.channels before prune.weights"
        )
    if before == after:
        ctx.warn(f"nothing has left: no layer has channels to spare beyond a multiple of {options.round_to}: round_to")


def _follows(model: TorchModel, name: str) -> bool:
    """Whether a weight has the pattern that sparse kernels read."""
    weight = find(model.module, name)
    return weight.shape[1] % 4 == 0 and sparsity.follows(weight, 2, 4)


def _widths(model: TorchModel) -> dict[str, int]:
    """Layer -> channels that it writes, of every convolution and linear layer."""
    shapes = ((name, shape_of(inner, "out")) for name, inner in model.module.named_modules() if is_root(inner))
    return {name: shape.width for name, shape in shapes if shape is not None}
