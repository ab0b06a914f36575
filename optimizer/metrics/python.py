"""A metric from a function in user code: the mean of what it says about each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores, usercode
from optimizer.errors import OptimizerError
from optimizer.protocols import Batch
from optimizer.schema import Entry, Strict
from optimizer.values import Better, Unit

UNIT: Unit = ""
BETTER: Better = "higher"
AGAINST: Literal["labels"] = "labels"


class Options(Strict):
    """`unit` and `better` take the place of the module's UNIT and BETTER."""

    entry: Entry = Field(description="file.py:function(outputs, labels) returning one number per example")
    unit: str = Field("", description='with "%", the function returns numbers in 0..100, or booleans')
    better: Better = "higher"


def ready(options: Options) -> None:
    """Raise OptimizerError where the function is not there."""
    usercode.load(options.entry)


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """Calls function(outputs: name -> array, labels: array or None); with views, outputs are (examples, views, ...)."""
    count = len(batch.indices)
    shaped = {
        name: array.reshape(count, batch.views, *array.shape[1:]) if batch.views > 1 else array
        for name, array in outputs.items()
    }
    found = usercode.load(options.entry)(shaped, batch.labels)
    try:
        right_or_wrong = options.unit == "%" and np.asarray(found).dtype == bool
        rows = np.asarray(found, np.float64) * (100 if right_or_wrong else 1)
    except (TypeError, ValueError) as error:
        raise OptimizerError(
            f"{options.entry} did not return numbers: {error}", "return one number per example"
        ) from None
    if rows.shape not in ((count,), (count, 1)):
        raise OptimizerError(
            f"{options.entry} returned shape {list(rows.shape)} for {count} examples", "return one number per example"
        )
    if not np.isfinite(rows).all():
        raise OptimizerError(f"{options.entry} returned NaN or infinity", "return a finite number for every example")
    return scores.as_column(rows)


def summarize(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean())


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return scores.means(rows, counts)
