"""What half can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from optimizer.schema import Strict

SEEN_ON = ("calibrate", "evaluate")  # data roles that the guard looks at, the best first


class Options(Strict):
    """Which 16-bit type, and what stays in 32 bits."""

    dtype: Literal["fp16", "bf16"] = Field("fp16", description="IEEE half precision, or bfloat16")
    keep: list[str] = Field([], description="left in float32: node names with * and ?, /regular expressions/, op:Type")
    guard: bool = Field(
        True,
        description="nodes whose values or weights float16 cannot hold stay in float32, with bf16 those whose results "
        "are far off in 8 bits (for openvino none); seen on calibration data, else on evaluation data, else on made-up "
        "inputs",
    )
    margin: float = Field(
        2.0, ge=1, description="with guard and fp16: how far values may grow beyond those that were seen"
    )
    samples: int = Field(
        64, ge=1, description="with guard: examples to look at, or all when there are fewer; bf16: 16 do"
    )
