"""How much leaves: shares are tried until what is left costs no more than the goal allows, counted or measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.formats import pruned
from optimizer.formats.torch import TorchModel
from optimizer.passes.prune_channels import choice, cutting
from optimizer.passes.prune_channels.cutting import Removal
from optimizer.passes.prune_channels.groups import Group
from optimizer.passes.prune_channels.options import GOALS, ROUNDINGS, Options
from optimizer.passes.prune_channels.scores import Scores
from optimizer.protocols import Context

COUNTS = 12  # shares that are tried for a cost that is counted

Cost = Callable[[TorchModel], float]
"""What a model costs, as a share of what the whole one does."""


@dataclass(frozen=True)
class Stage:
    """A module as it is, what can leave it, and how far the way to the goal is to be gone."""

    model: TorchModel
    groups: Sequence[Group]
    scores: Scores
    options: Options
    costs: Mapping[str, Cost]
    before: float  # shares of the way, 0 to 1
    after: float

    @property
    def goal(self) -> str:
        """The name of the goal that was given."""
        return next(name for name in GOALS if getattr(self.options, name) is not None)

    @property
    def left(self) -> float:
        """Share of the whole cost that may be left after this stage."""
        return 1 - (1 - float(getattr(self.options, self.goal))) * self.after

    @property
    def ratio(self) -> float:
        """Share of the channels that are still there that leaves in this stage."""
        total = float(self.options.ratio or 0)
        return total * (self.after - self.before) / (1 - total * self.before)

    def removal(self, share: float, round_to: int) -> Removal:
        return choice.choose(self.groups, self.scores, share, self.options, round_to)

    def without(self, chosen: Removal) -> TorchModel:
        return pruned.edited(self.model, cutting.cuts(self.model.module, chosen))


def costs_of(whole: TorchModel, ctx: Context) -> dict[str, Cost]:
    """The costs that can be a goal, relative to the whole model."""
    parameters, macs = pruned.parameters(whole), pruned.macs_of(whole, ctx)
    return {
        "parameters": lambda model: pruned.parameters(model) / parameters,
        "macs": lambda model: pruned.macs_of(model, ctx) / macs,
        "latency": lambda model: _measured(model, ctx, macs),
    }


def _measured(model: TorchModel, ctx: Context, macs: int) -> float:
    """Latency on the target over that of the step's source; every attempt is kept for the record."""
    if ctx.latency is None:
        raise AssertionError("BUG: a step that measures was run without a target")
    with tempfile.TemporaryDirectory(prefix="optc-attempt-") as folder:
        pruned.write(model, Path(folder))
        found = ctx.latency(Path(folder))
    count = pruned.macs_of(model, ctx)
    ctx.note(f"attempt.{count}", {"macs": count / macs, "latency": [found.value, found.low, found.high]})
    return found.value


def chosen(stage: Stage, ctx: Context) -> Removal:
    """The removal of a stage. Raises OptimizerError for a ratio that takes a whole layer."""
    if stage.goal == "ratio":
        choice.refuse_whole(stage.groups, stage.ratio, stage.options)
    round_to = _rounding(stage, ctx) if stage.options.round_to == "auto" else stage.options.round_to
    if stage.goal == "ratio":
        return stage.removal(stage.ratio, round_to)
    best, cost = _reached(stage, stage.goal, round_to)
    if cost > stage.left:
        ctx.warn(
            f"{stage.goal} {stage.left:.3g}x cannot be reached: {cost:.3g}x is left when all that may leave has left; "
            "that is kept. Raise most, lower round_to, or drop blocks with prune.depth"
        )
    return best


def _reached(stage: Stage, goal: str, round_to: int) -> tuple[Removal, float]:
    """The smallest removal that meets the goal, by bisection over the share that leaves, and what is left then.

    The largest removal there is when none does.
    """
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def cost(chosen: Removal) -> float:
        counts = tuple(sorted((group.name, len(channels)) for group, channels in chosen.items()))
        if counts not in known:
            known[counts] = stage.costs[goal](stage.without(chosen))
        return known[counts]

    best = stage.removal(1.0, round_to)
    if cost(best) > stage.left:
        return best, cost(best)
    low, high = 0.0, 1.0
    for _ in range(stage.options.probes - 1 if goal == "latency" else COUNTS):
        middle = (low + high) / 2
        chosen = stage.removal(middle, round_to)
        if cost(chosen) <= stage.left:
            best, high = chosen, middle
        else:
            low = middle
    return best, cost(best)


def _rounding(stage: Stage, ctx: Context) -> int:
    """The multiple of channels with which the target is fastest, each measured at the stage's goal.

    A goal of latency takes its own number as a goal of multiply-accumulates here.
    """
    goal = "macs" if stage.goal == "latency" else stage.goal
    found = {}
    for round_to in ROUNDINGS:
        if goal == "ratio":
            attempt, met = stage.removal(stage.ratio, round_to), True
        else:
            attempt, cost = _reached(stage, goal, round_to)
            met = cost <= stage.left
        found[round_to] = (not met, stage.costs["latency"](stage.without(attempt)))
    best = min(found, key=lambda round_to: found[round_to])
    ctx.note("round_to", {"chosen": best, "latency": {str(r): latency for r, (_, latency) in found.items()}})
    return best
