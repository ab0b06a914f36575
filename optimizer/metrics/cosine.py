"""Mean cosine similarity between an output and the baseline's output for the same example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.errors import OptimizerError
from optimizer.protocols import Batch
from optimizer.schema import Strict
from optimizer.values import Better, Unit

UNIT: Unit = ""
BETTER: Better = "higher"
AGAINST: Literal["baseline"] = "baseline"


class Options(Strict):
    output: str | None = Field(None, description="the output to compare; default: the first")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """The output of each example as one flat vector, views one after the other."""
    count = len(batch.indices)
    rows = scores.output(outputs, options.output, count * batch.views).astype(np.float32).reshape(count, -1)
    if rows.shape[1] == 1:
        raise OptimizerError(
            "the output holds one number per example, and the cosine of two numbers tells no more than their signs",
            "choose an output of vectors with 'output', or another metric: pearson or spearman with labels",
        )
    return rows


def compare(rows: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """One similarity per example."""
    return scores.as_column(scores.cosines(rows, baseline))


def summarize(rows: np.ndarray) -> float:
    return float(rows[:, 0].mean())


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return scores.means(rows, counts)
