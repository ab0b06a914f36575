"""What prune.channels can be told."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from optimizer.recipe import UseField
from optimizer.schema import Strict
from optimizer.training.settings import Settings

Importance = Literal["magnitude", "bn_scale", "taylor", "hessian"]
GOALS = ("ratio", "macs", "parameters", "latency")
ROUNDINGS = (4, 8, 16)  # what round_to: auto tries


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
    latency: Times | None = Field(
        None, description="latency that is left on the target, e.g. 0.5x, found by measuring attempts"
    )
    through: list[UseField] = Field(
        [],
        description="steps that an attempt goes through before it is measured, e.g. [quantize.static]; what it is "
        "compared with, the model before this step, goes through them too",
    )
    probes: int = Field(6, ge=1, le=30, description="attempts that are measured for each goal of latency")
    importance: Importance = Field(
        "magnitude",
        description="norm of the weights, scale of the batch norms, or what the loss feels, to first or second order",
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="rank all channels together, or take the same share of every layer"
    )
    steps: int = Field(1, ge=1, le=20, description="reach the goal in so many steps, ranking anew after each")
    recover: Settings | None = Field(
        None, description="training on the outputs of the whole model between two steps: epochs, lr, ... as in finetune"
    )
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        8, description="a layer keeps a multiple of so many channels; auto: measured on the target"
    )
    most: float = Field(0.9, gt=0, le=1, description="largest share of one layer's channels that may leave")
    keep: list[str] = Field([], description="modules left whole: paths with * and ?, /regular expressions/, op:Class")
    samples: int = Field(128, ge=1, description="examples that taylor and hessian read")
    data: Literal["calibrate", "train"] = Field("calibrate", description="role of the data that they are taken from")

    @model_validator(mode="after")
    def _one_goal(self) -> Options:
        given = [name for name in GOALS if getattr(self, name) is not None]
        if len(given) != 1:
            told = " and ".join(given) or "none"
            raise ValueError(f"give exactly one goal of {', '.join(GOALS)}; given: {told}")
        if self.recover and self.steps == 1:
            raise ValueError("recover trains between steps, and there is one step: set steps, or finetune afterwards")
        if self.through and not self.measured:
            raise ValueError("through is for what is measured: a goal of latency, or round_to: auto")
        return self

    @property
    def measured(self) -> bool:
        """Whether attempts are timed on the target."""
        return self.latency is not None or self.round_to == "auto"
