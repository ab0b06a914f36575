"""What prune.depth can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from optimizer.schema import Strict


class Options(Strict):
    """How many blocks leave, or which. Exactly one of keep, drop and blocks."""

    keep: int | None = Field(None, ge=1, description="blocks that are left in each stack")
    drop: int | None = Field(None, ge=1, description="blocks that leave, of all stacks together")
    blocks: list[str] = Field([], description="the blocks that leave: paths with * and ?, or /regular expressions/")
    stacks: list[str] = Field([], description="stacks that may lose blocks: their paths; default: all")
    samples: int = Field(32, ge=1, description="examples that the absence of a block is felt on")
    data: Literal["calibrate", "train"] = Field("calibrate", description="role of the data that they are taken from")

    @model_validator(mode="after")
    def _one_goal(self) -> Options:
        given = [name for name in ("keep", "drop", "blocks") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of keep, drop, blocks; given: {' and '.join(given) or 'none'}")
        return self
