"""What all transforms share: their column option and how they take a value out of an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from optimizer.errors import OptimizerError, unknown
from optimizer.schema import Strict

if TYPE_CHECKING:
    import numpy as np

Example = Mapping[str, Any]


class OnColumn(Strict):
    column: str = Field("image", description="the column to change")


def value(example: Example, column: str) -> Any:
    """The value of a column; raises OptimizerError when the example has no such column."""
    if column not in example:
        raise unknown("column", column, list(example))
    return example[column]


def array(example: Example, column: str) -> np.ndarray:
    """The value of a column as an array of numbers."""
    import numpy as np

    found = value(example, column)
    if isinstance(found, bytes):
        raise OptimizerError(
            f"column '{column}' holds undecoded bytes, not numbers", f"add image.decode: {{column: {column}}} before"
        )
    if isinstance(found, str):
        raise OptimizerError(
            f"column '{column}' holds text, not numbers", f"add tokenize: {{columns: [{column}], ...}} before"
        )
    numbers = np.asarray(found)
    if numbers.dtype.kind not in "biuf":
        raise OptimizerError(f"column '{column}' holds {numbers.dtype}, not numbers", "store it as an array of numbers")
    return numbers
