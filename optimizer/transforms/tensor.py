"""Transforms of number arrays: scale, normalize, reorder, reshape, cast, add and rename columns."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from optimizer.errors import OptimizerError, unknown
from optimizer.schema import Strict
from optimizer.transforms.columns import Example, OnColumn, array

Number = Literal[
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"
]


class RescaleOptions(OnColumn):
    factor: float | None = Field(None, description="multiply by this")
    divide: float | None = Field(None, description="divide by this; 255 when neither is given")

    @model_validator(mode="after")
    def _one(self) -> RescaleOptions:
        if self.factor is not None and self.divide is not None:
            raise ValueError("give 'factor' or 'divide', not both")
        if self.divide == 0:
            raise ValueError("cannot divide by 0")
        return self


class NormalizeOptions(OnColumn):
    mean: float | list[float] = Field(description="one number, or one per channel")
    std: float | list[float] = Field(description="one number, or one per channel")
    layout: Literal["hwc", "chw"] = Field("hwc", description="where the channels are when this runs")

    @model_validator(mode="after")
    def _fit(self) -> NormalizeOptions:
        counts = {len(v) for v in (self.mean, self.std) if isinstance(v, list)}
        if len(counts) > 1:
            raise ValueError("'mean' and 'std' name different numbers of channels")
        if any(v == 0 for v in (self.std if isinstance(self.std, list) else [self.std])):
            raise ValueError("'std' must not be 0")
        return self


class LayoutOptions(OnColumn):
    to: Literal["chw", "hwc"] = Field("chw", description="chw: channels first, from channels last; hwc: the other way")


class CastOptions(OnColumn):
    dtype: Number


class ReshapeOptions(OnColumn):
    shape: list[int] = Field(description="new shape of one example; one -1 is worked out")


class ExpandOptions(OnColumn):
    axis: int = Field(0, description="where the new axis of size 1 goes")


class RenameOptions(Strict):
    columns: dict[str, str] = Field(description="old name -> new name")


class ConstantOptions(Strict):
    column: str = Field(description="the column to add")
    value: float | list[Any] = Field(description="a number or nested lists of numbers")
    dtype: Number = "float32"


def rescale(example: Example, options: RescaleOptions) -> Example:
    """Numbers -> float32, multiplied by a factor or divided (by 255 unless told otherwise)."""
    import numpy as np

    numbers = array(example, options.column).astype(np.float32)
    if options.factor is not None:
        return {**example, options.column: numbers * np.float32(options.factor)}
    return {**example, options.column: numbers / np.float32(255 if options.divide is None else options.divide)}


def normalize(example: Example, options: NormalizeOptions) -> Example:
    """Numbers -> float32 (x - mean) / std, per channel."""
    import numpy as np

    numbers = array(example, options.column).astype(np.float32)
    mean, std = (np.asarray(v, np.float32) for v in (options.mean, options.std))
    count = max(mean.size, std.size)
    axis = -1 if options.layout == "hwc" else -3
    if count > 1 and (numbers.ndim < -axis or numbers.shape[axis] != count):
        raise OptimizerError(
            f"column '{options.column}' has shape {list(numbers.shape)}, which in layout {options.layout} "
            f"has no {count} channels to normalize",
            "put normalize before layout, or say layout: chw",
        )
    if options.layout == "chw":
        mean, std = (v.reshape(-1, 1, 1) if v.ndim else v for v in (mean, std))
    return {**example, options.column: (numbers - mean) / std}


def layout(example: Example, options: LayoutOptions) -> Example:
    """Channels last -> channels first, or back; a picture without a channel axis gets one."""
    import numpy as np

    numbers = array(example, options.column)
    if numbers.ndim == 2:
        return {**example, options.column: np.expand_dims(numbers, 0 if options.to == "chw" else -1)}
    if numbers.ndim < 2:
        raise OptimizerError(
            f"column '{options.column}' has shape {list(numbers.shape)}: no picture",
            "reshape it to height x width first",
        )
    source, target = (-1, -3) if options.to == "chw" else (-3, -1)
    return {**example, options.column: np.moveaxis(numbers, source, target)}


def cast(example: Example, options: CastOptions) -> Example:
    """Numbers -> the given dtype; raises OptimizerError for a value that the dtype cannot hold."""
    import numpy as np

    numbers = array(example, options.column)
    dtype = np.dtype(options.dtype)
    if dtype.kind in "iu" and numbers.size:
        low, high = numbers.min(), numbers.max()
        if not (np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max):  # also false for NaN
            raise OptimizerError(
                f"column '{options.column}' has values from {low} to {high}, too wide for {dtype}",
                "cast to a wider dtype",
            )
    return {**example, options.column: numbers.astype(dtype)}


def reshape(example: Example, options: ReshapeOptions) -> Example:
    """The same numbers in another shape."""
    numbers = array(example, options.column)
    try:
        return {**example, options.column: numbers.reshape(options.shape)}
    except ValueError:
        raise OptimizerError(
            f"column '{options.column}' has shape {list(numbers.shape)} ({numbers.size} numbers), "
            f"which does not fit {options.shape}",
            "give a shape with as many numbers",
        ) from None


def expand(example: Example, options: ExpandOptions) -> Example:
    """The same numbers with one more axis of size 1."""
    import numpy as np

    numbers = array(example, options.column)
    if not -numbers.ndim - 1 <= options.axis <= numbers.ndim:
        raise OptimizerError(
            f"column '{options.column}' has {numbers.ndim} axes; axis {options.axis} is out of range",
            f"use an axis from {-numbers.ndim - 1} to {numbers.ndim}",
        )
    return {**example, options.column: np.expand_dims(numbers, options.axis)}


def rename(example: Example, options: RenameOptions) -> Example:
    """Columns under new names; a name that is taken already is an error."""
    for old in options.columns:
        if old not in example:
            raise unknown("column", old, list(example))
    renamed = [options.columns.get(name, name) for name in example]
    twice = {name for name in renamed if renamed.count(name) > 1}
    if twice:
        raise OptimizerError(f"two columns would be named '{min(twice)}'", "rename the other one too")
    return dict(zip(renamed, example.values(), strict=True))


def constant(example: Example, options: ConstantOptions) -> Example:
    """One more column that is the same in every example."""
    import numpy as np

    try:
        return {**example, options.column: np.asarray(options.value, np.dtype(options.dtype))}
    except (ValueError, TypeError, OverflowError) as error:
        raise OptimizerError(
            f"column '{options.column}': the value is no {options.dtype} array: {error}", "give numbers"
        ) from None
