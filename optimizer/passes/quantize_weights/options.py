"""What quantize.weights can be told, and what each writer makes of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from optimizer.schema import Strict

Algorithm = Literal["rtn", "hqq", "gptq", "awq", "autoround"]
CALIBRATED: tuple[Algorithm, ...] = ("gptq", "awq", "autoround")  # decided on what layers read, so they need data


class Options(Strict):
    """How weights are rounded. None leaves a choice to the target."""

    bits: Literal[4, 8] = Field(4, description="width of a weight")
    group: int | Literal["channel"] | None = Field(
        None,
        description="weights of a row that share a scale: a power of two from 16, or channel for the whole row; "
        "default: 32, or channel where the target has nothing else",
    )
    algorithm: Algorithm = Field(
        "rtn",
        description="rtn: to the nearest; hqq: robust fit of the scales; gptq, awq, autoround: least error of the "
        "outputs; autoround learns rounding and ranges, and takes longest",
    )
    symmetric: bool = Field(False, description="zero points of zero: slightly smaller, less exact")
    embeddings: bool = Field(False, description="also tables that a Gather looks rows up in")
    keep: list[str] = Field([], description="left in float: node names with * and ?, /regular expressions/, op:Type")
    samples: int = Field(128, ge=1, description="calibration examples where inputs decide, or all when there are fewer")
    accuracy_level: Literal[0, 1, 4] | None = Field(
        None, description="for ONNX Runtime: products in int8 (4, the default), in float32 (1), as it likes (0)"
    )

    @field_validator("group")
    @classmethod
    def _power_of_two(cls, group: int | str | None) -> int | str | None:
        if isinstance(group, int) and (group < 16 or group & (group - 1)):
            raise ValueError("a group is a power of two from 16, or channel")
        return group
