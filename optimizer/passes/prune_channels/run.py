"""From a goal to a pruned module: find groups, try each, rank their channels, remove until the goal is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer import selectors
from optimizer.errors import OptimizerError
from optimizer.formats import pruned
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_channels import choice, cutting, scores, trial
from optimizer.passes.prune_channels.cutting import Removal
from optimizer.passes.prune_channels.groups import Group, find_groups, is_root
from optimizer.passes.prune_channels.layers import shape_of
from optimizer.passes.prune_channels.options import GOALS, Options
from optimizer.protocols import Context
from optimizer.values import Artifact

PROBES = 12  # shares tried until the goal is met


@dataclass(frozen=True)
class Goal:
    """What is to be left of a cost of the whole model."""

    name: str  # ratio, macs, parameters
    left: float  # cost that may be left; for a ratio: share that leaves
    cost: Callable[[TorchModel], float]


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Write the module without its least important channels.

    Raises OptimizerError for a compiled model, one without a group that can be pruned, and a ratio that takes whole
    layers. A cost that cannot be reached is warned of, and the nearest that can is kept.
    """
    model = whole = pruned.opened(source, "prune.channels")
    refused: dict[str, str] = {}
    for step in range(1, options.steps + 1):
        groups, reasons = _usable(model, options, ctx)
        refused |= reasons
        goal = _goal(whole, options, ctx, step / options.steps)
        model = _step(model, groups, goal, options, ctx)
    _note(ctx, whole, model, refused, options)
    pruned.write(model, out)


def _goal(whole: TorchModel, options: Options, ctx: Context, progress: float) -> Goal:
    """The goal of a step: the whole way is gone in equal parts."""
    name = next(name for name in GOALS if getattr(options, name, None) is not None)
    if name == "ratio":
        return Goal(name, float(options.ratio or 0) * progress, lambda model: 0.0)
    cost: Callable[[TorchModel], float] = pruned.parameters
    if name == "macs":
        cost = lambda model: pruned.macs_of(model, ctx)  # noqa: E731  # one of two functions, with the samples bound
    left = 1 - (1 - float(getattr(options, name))) * progress
    return Goal(name, left * cost(whole), cost)


def _usable(model: TorchModel, options: Options, ctx: Context) -> tuple[list[Group], dict[str, str]]:
    """The groups whose removal was tried and holds, and the others with their reasons."""
    found = find_groups(model, ctx.samples[0])
    refused = dict(found.refused)
    kept = _kept(model, options)
    usable = []
    for done, group in enumerate(found.groups):
        ctx.progress(done, len(found.groups))
        reason = "kept as asked" if _touches(group, kept) else _tried(model, group, ctx)
        if reason is None:
            usable.append(group)
        else:
            refused[group.name] = reason
    if not usable:
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(refused.items())[:5])
        raise OptimizerError(
            f"prune.channels: {model.record.origin} has no channels that can be pruned ({listed or 'no layer'})",
            "prune.depth drops whole blocks, prune.weights needs no structure",
        )
    return usable, refused


def _tried(model: TorchModel, group: Group, ctx: Context) -> str | None:
    """Why half of a group cannot leave; half of it shows what fewer might not."""
    if len(group.units) < 2:
        return "its channels cannot be told apart" if group.width > 1 else "it has one channel"
    half = [channel for unit in group.units[: len(group.units) // 2] for channel in unit]
    return trial.fault(model, ctx.samples, {group: half})


def _kept(model: TorchModel, options: Options) -> set[str]:
    nodes = [selectors.Node(name, (type(inner).__name__,)) for name, inner in model.module.named_modules() if name]
    return selectors.select(options.keep, nodes, "prune.channels, keep")


def _touches(group: Group, kept: set[str]) -> bool:
    """Whether a layer of the group is a kept module, or within one."""
    layers = {member.layer for member in group.members}
    return any(layer == k or layer.startswith(f"{k}.") for layer in layers for k in kept)


def _step(model: TorchModel, groups: Sequence[Group], goal: Goal, options: Options, ctx: Context) -> TorchModel:
    found = scores.score(model, groups, options, ctx)
    ranked = [group for group in groups if group.name in found]

    def removal(share: float) -> Removal:
        return choice.choose(ranked, found, share, options, options.round_to)

    if goal.name == "ratio":
        choice.refuse_whole(ranked, goal.left, options)
        chosen = removal(goal.left)
    else:
        chosen = _reached(model, goal, removal, ctx)
    return _held(model, chosen, ctx)


def _reached(model: TorchModel, goal: Goal, removal: Callable[[float], Removal], ctx: Context) -> Removal:
    """The smallest removal that meets the goal, by bisection over the share that leaves; the largest if none does."""

    def cost(chosen: Removal) -> float:
        return goal.cost(pruned.edited(model, cutting.cuts(model.module, chosen)))

    best = removal(1.0)
    least = cost(best)
    if least > goal.left:
        ctx.warn(
            f"{goal.name} {goal.left:,.0f} cannot be reached: {least:,.0f} are left when all that may leave has left; "
            "that is kept. Raise most, lower round_to, or drop blocks with prune.depth"
        )
        return best
    low, high = 0.0, 1.0
    for _ in range(PROBES):
        middle = (low + high) / 2
        chosen = removal(middle)
        if cost(chosen) <= goal.left:
            best, high = chosen, middle
        else:
            low = middle
    return best


def _held(model: TorchModel, chosen: Removal, ctx: Context) -> TorchModel:
    """The model without all chosen channels; a group that only fails together with others is left whole."""
    reason = trial.fault(model, ctx.samples, chosen) if chosen else None
    if reason is None:
        return pruned.edited(model, cutting.cuts(model.module, chosen))
    held: dict[Group, Sequence[int]] = {}
    for group, channels in chosen.items():
        reason = trial.fault(model, ctx.samples, {**held, group: channels})
        if reason is None:
            held[group] = tuple(channels)
        else:
            ctx.warn(f"{group.name} is left whole: {reason}")
    return pruned.edited(model, cutting.cuts(model.module, held))


def _note(ctx: Context, whole: TorchModel, model: TorchModel, refused: Mapping[str, str], options: Options) -> None:
    before, after = _widths(whole), _widths(model)
    ctx.note("channels", {name: [count, after[name]] for name, count in before.items() if after[name] != count})
    ctx.note("left whole", dict(refused))
    ctx.note("parameters", {"before": pruned.parameters(whole), "after": pruned.parameters(model)})
    ctx.note("macs", {"before": pruned.macs_of(whole, ctx), "after": pruned.macs_of(model, ctx)})
    if before == after:
        ctx.warn(f"nothing has left: no layer has channels to spare beyond a multiple of {options.round_to}: round_to")


def _widths(model: TorchModel) -> dict[str, int]:
    """Layer -> channels that it writes, of every convolution and linear layer."""
    shapes = ((name, shape_of(inner, "out")) for name, inner in model.module.named_modules() if is_root(inner))
    return {name: shape.width for name, shape in shapes if shape is not None}
