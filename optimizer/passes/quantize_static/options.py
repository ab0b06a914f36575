"""What quantize.static can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from optimizer.schema import Strict


class Options(Strict):
    """What is quantized, and how ranges are found. None leaves a choice to the target's scheme."""

    method: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="minmax: all that was seen; entropy: clip where least information is lost; percentile"
    )
    percentile: float = Field(99.99, gt=50, le=100, description="with method percentile: share of values kept, in %")
    samples: int = Field(300, ge=1, description="calibration examples, or all when there are fewer")
    per_channel: bool | None = Field(None, description="one scale per output channel of a weight")
    keep: list[str] = Field([], description="left in float: node names with * and ?, /regular expressions/, op:Type")
    model: Literal["auto", "cnn", "transformer"] = Field(
        "auto", description="transformer: only products with weights are quantized, not what lies between them"
    )
    ops: list[str] | None = Field(None, description="quantize only these ONNX operator types")
    constant_weights_only: bool | None = Field(
        None, description="false: also products of two activations, such as attention scores"
    )
    reduce_range: bool = Field(
        False, description="7 bits per weight, for x86 CPUs without VNNI, whose 8-bit products saturate"
    )
