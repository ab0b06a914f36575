"""What the guard tells of its work: what stayed in float32 and why, and what that was seen on."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.passes.half.options import Options
from optimizer.passes.half.samples import Samples
from optimizer.protocols import Context

SHOWN = 8  # names in a warning; the record holds all


def record(
    ctx: Context, wide: Mapping[str, str], given: Samples, options: Options, total: int, what: str = "nodes"
) -> None:
    """Note what stays, of `total` nodes or weights, and warn where anything does or where the inputs were made up."""
    ctx.note(
        "guard",
        {"seen_on": given.name, "samples": given.count, "margin": options.margin, "float32": dict(wide), "of": total},
    )
    if given.made_up:
        ctx.warn(
            "half looked for overflow on made-up inputs only, since the recipe has no data: real values may be larger; "
            "add data: {calibrate: <card/split or file>}"
        )
    if wide:
        ctx.warn(f"{len(wide)} of {total} {what} stay in float32: {listed(wide)}")


def listed(reasons: Mapping[str, str]) -> str:
    """The first names with their reasons, and how many more there are."""
    shown = "; ".join(f"{name} ({why})" for name, why in list(reasons.items())[:SHOWN])
    return f"{shown}; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else shown
