"""Which units leave: the least important ones, in all groups together or in each, and how many are left in each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.passes.prune_channels.cutting import Removal
from optimizer.passes.prune_channels.groups import Group
from optimizer.passes.prune_channels.options import Options
from optimizer.passes.prune_channels.scores import Scores


def choose(groups: Sequence[Group], scores: Scores, share: float, options: Options, round_to: int) -> Removal:
    """Group -> channels of its root that leave, when about `share` of all channels is to.

    Counts are rounded to a multiple of `round_to` channels; no group loses more than `options.most`.
    """
    ranked = [group for group in groups if group.name in scores]
    wanted = _globally(ranked, scores, share, options) if options.scope == "global" else _each(ranked, share)
    found = {}
    for group in ranked:
        count = _rounded(group, wanted[group.name], options, round_to)
        order = np.argsort(scores[group.name], kind="stable")[:count]
        if count:
            found[group] = tuple(sorted(channel for unit in order for channel in group.units[unit]))
    return found


def refuse_whole(groups: Sequence[Group], ratio: float, options: Options) -> None:
    """Raise OptimizerError for a ratio that takes a whole layer."""
    if options.scope == "layer":
        for group in groups:
            if _each([group], ratio)[group.name] >= len(group.units):
                raise OptimizerError(
                    f"prune.channels: ratio {ratio:g} leaves no channel of {group.name}, which has {group.width}"
                    + (f" in {len(group.units)} units" if len(group.units) < group.width else ""),
                    f"lower the ratio, or leave the layer whole: keep: [{group.name}]",
                )
    units = sum(len(group.units) * len(group.units[0]) for group in groups)
    room = sum(_room(group, options) * len(group.units[0]) for group in groups)
    if options.scope == "global" and ratio * units > room + 1e-9:
        raise OptimizerError(
            f"prune.channels: ratio {ratio:g} is more than {room / units:.3g}, all that may leave when no layer loses "
            f"more than {options.most:g} of its channels",
            "lower the ratio, or raise most",
        )


def _each(groups: Sequence[Group], share: float) -> dict[str, int]:
    return {group.name: round(share * len(group.units)) for group in groups}


def _globally(groups: Sequence[Group], scores: Scores, share: float, options: Options) -> dict[str, int]:
    """Units per group among the least important of all, as many as hold the share of channels."""
    rows = sorted(
        (float(value), group.name, len(group.units[unit]))
        for group in groups
        for unit, value in enumerate(scores[group.name])
    )
    left = share * sum(channels for _, _, channels in rows)
    room = {group.name: _room(group, options) for group in groups}
    found = dict.fromkeys(room, 0)
    for _, name, channels in rows:
        if left < channels / 2:
            break
        if found[name] < room[name]:
            found[name] += 1
            left -= channels
    return found


def _room(group: Group, options: Options) -> int:
    """Units that a group can spare: at least one is left."""
    return min(len(group.units) - 1, math.floor(options.most * len(group.units) + 1e-9))


def _rounded(group: Group, wanted: int, options: Options, round_to: int) -> int:
    """Units that leave, so that what is left is the nearest multiple of `round_to` channels that a group can have."""
    size, count = len(group.units[0]), len(group.units)
    step = math.lcm(size, round_to) // size  # units
    if step > count:
        return 0  # the layer has fewer channels than the target likes to compute at once
    left = count - min(wanted, count - 1)
    nearest = max(step, step * math.floor(left / step + 0.5))
    least = step * math.ceil((count - _room(group, options)) / step)
    return max(count - max(nearest, least), 0)
