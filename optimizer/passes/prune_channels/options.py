"""What prune.channels can be told."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from optimizer.schema import Strict

Importance = Literal["magnitude", "bn_scale", "taylor", "hessian"]
GOALS = ("ratio", "macs", "parameters", "latency")


def _times(value: str | float) -> float:
    """`0.5x` or 0.5 as a number: what is left, as a multiple of what there was."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d*\.?\d+)\s*x\s*", value)
        if not found:
            raise ValueError("write what is to be left as a multiple, for example 0.5x")
        value = float(found[1])
    if not 0 < value < 1:
        raise ValueError("nothing to prune: what is left must lie between 0x and 1x")
    return value


Times = Annotated[str | float, AfterValidator(_times)]


class Options(Strict):
    """What is to be left, and how it is chosen. Exactly one goal: ratio, macs, parameters or latency."""

    ratio: float | None = Field(None, gt=0, lt=1, description="share of the prunable channels that leaves")
    macs: Times | None = Field(None, description="multiply-accumulates that are left, e.g. 0.4x")
    parameters: Times | None = Field(None, description="parameters that are left, e.g. 0.4x")
    importance: Importance = Field(
        "magnitude",
        description="norm of the weights, scale of the batch norms, or what the loss feels, to first or second order",
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="rank all channels together, or take the same share of every layer"
    )
    steps: int = Field(1, ge=1, le=20, description="reach the goal in so many steps, ranking anew after each")
    round_to: int = Field(8, ge=1, description="a layer keeps a multiple of so many channels")
    most: float = Field(0.9, gt=0, le=1, description="largest share of one layer's channels that may leave")
    keep: list[str] = Field([], description="modules left whole: paths with * and ?, /regular expressions/, op:Class")
    samples: int = Field(128, ge=1, description="examples that taylor and hessian read")
    data: Literal["calibrate", "train"] = Field("calibrate", description="role of the data that they are taken from")

    @model_validator(mode="after")
    def _one_goal(self) -> Options:
        given = [name for name in GOALS if getattr(self, name, None) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise ValueError(f"give exactly one goal of {', '.join(GOALS)}; given: {told}")
        return self
