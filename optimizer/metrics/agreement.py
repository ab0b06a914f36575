"""Share of examples for which the model picks the same class as the baseline, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.protocols import Batch
from optimizer.schema import Strict
from optimizer.values import Better, Unit

UNIT: Unit = "%"
BETTER: Better = "higher"
AGAINST: Literal["baseline"] = "baseline"
SHARE = True


class Options(Strict):
    output: str | None = Field(None, description="the output with the scores; default: the first")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """The index of the highest score, one column per view."""
    count = len(batch.indices)
    found = scores.class_scores(outputs, options.output, count * batch.views)
    chosen: np.ndarray = found.argmax(axis=1).reshape(count, batch.views)
    return chosen.astype(np.float64)


def compare(rows: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """1 where all views agree, else 0."""
    return scores.as_column((rows == baseline).all(axis=1))


def summarize(rows: np.ndarray) -> float:
    return float(100 * rows[:, 0].mean())


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return 100 * scores.means(rows, counts)
