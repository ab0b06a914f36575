"""What prune.weights can be told."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from optimizer.schema import Strict
from optimizer.training.settings import Settings


class Options(Strict):
    """How many weights become zero, and which. Exactly one of sparsity and pattern."""

    sparsity: float | None = Field(None, gt=0, lt=1, description="share of a layer's weights that become zero")
    pattern: str | None = Field(
        None, description="2:4 and the like: of every 4 weights along the input channels at most 2 are left"
    )
    method: Literal["magnitude", "wanda"] = Field(
        "magnitude", description="wanda: magnitude times the norm of what the weight is multiplied by"
    )
    scope: Literal["layer", "global"] = Field("layer", description="the same share of every layer, or of all together")
    steps: int = Field(1, ge=1, le=50, description="reach the sparsity in so many steps, the first ones the largest")
    recover: Settings | None = Field(
        None, description="training on the outputs of the whole model between two steps: epochs, lr, ... as in finetune"
    )
    keep: list[str] = Field([], description="layers left dense: paths with * and ?, /regular expressions/, op:Class")
    samples: int = Field(128, ge=1, description="examples that wanda reads")
    data: Literal["calibrate", "train"] = Field("calibrate", description="role of the data that they are taken from")

    @field_validator("pattern")
    @classmethod
    def _counts(cls, value: str | None) -> str | None:
        found = re.fullmatch(r"(\d+):(\d+)", value) if value is not None else None
        if value is not None and (found is None or not 0 < int(found[1]) < int(found[2])):
            raise ValueError("write how many are left of how many, for example 2:4")
        return value

    @model_validator(mode="after")
    def _sound(self) -> Options:
        if (self.sparsity is None) == (self.pattern is None):
            raise ValueError("give exactly one of sparsity and pattern")
        if self.pattern and (self.scope == "global" or self.steps > 1):
            raise ValueError("a pattern holds within every few weights: it has no global scope and no steps")
        if self.scope == "global" and self.method == "wanda":
            raise ValueError("wanda compares the weights of one output with each other: scope: layer")
        if self.recover and self.steps == 1:
            raise ValueError("recover trains between steps, and there is one step: set steps, or finetune afterwards")
        return self

    @property
    def runs(self) -> tuple[int, int] | None:
        """How many weights are left of how many, where a pattern is asked for."""
        nonzero, _, width = (self.pattern or "").partition(":")
        return (int(nonzero), int(width)) if width else None
