"""What quantize.static can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from optimizer.schema import Strict
from optimizer.scheme import QuantScheme


class Options(Strict):
    """What is quantized, and how ranges are found. None leaves a choice to the target's scheme."""

    dtype: Literal["int8", "fp8"] = Field(
        "int8", description="8-bit integers, or floats of 8 bits (e4m3) for targets that multiply them"
    )
    method: Literal["minmax", "moving-average", "percentile", "entropy", "mse"] = Field(
        "minmax",
        description="ranges of activations; minmax: all that was seen; moving-average: of the extremes of each "
        "inference; percentile; entropy: clip where least information is lost; mse: where the squared error is least",
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
    smooth: bool | float | None = Field(
        None,
        description="SmoothQuant: move outliers of activations into the weights; true, or its alpha between 0 and 1; "
        "default: only in transformers for openvino, as NNCF does",
    )
    smooth_insert: bool = Field(
        False, description="with smooth: multiply at run time behind normalizations that others read too, as in BERT"
    )
    equalize: bool = Field(False, description="equalize weight ranges across layers (Nagel et al. 2019)")

    rounding: Literal["nearest", "adaround"] = Field(
        "nearest", description="of weights; adaround: up or down, so that each layer's output moves least"
    )
    bias_correction: bool | None = Field(
        None,
        description="take what quantization moves the mean of a layer's output by from its bias; "
        "default: only for openvino, as NNCF does",
    )
    reduce_range: bool = Field(
        False, description="7 bits per weight, for x86 CPUs without VNNI, whose 8-bit products saturate"
    )

    def by_channel(self, scheme: QuantScheme) -> bool:
        """Whether each output channel of a weight has a scale of its own: as said here, else as the target likes it."""
        return scheme.per_channel if self.per_channel is None else self.per_channel

    @field_validator("smooth", mode="before")
    @classmethod
    def _alpha(cls, value: object) -> object:
        if value is None or isinstance(value, bool):
            return value
        if not isinstance(value, int | float) or not 0 < value < 1:
            raise ValueError("write true, false, or an alpha between 0 and 1, both excluded")
        return float(value)
