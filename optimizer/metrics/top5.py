"""Share of examples whose label is among the five highest scores, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.errors import OptimizerError
from optimizer.protocols import Batch, Labels
from optimizer.schema import Strict
from optimizer.values import Better, Unit

UNIT: Unit = "%"
BETTER: Better = "higher"
AGAINST: Literal["labels"] = "labels"
LABELS: Labels = "classes"
SHARE = True


class Options(Strict):
    output: str | None = Field(None, description="the output with the scores; default: the first")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """1 where fewer than five classes come before the label's; of equal scores the lower index comes first."""
    found = scores.class_scores(outputs, options.output, len(batch.indices) * batch.views)
    if found.shape[1] <= 5:
        raise OptimizerError(f"top5 of {found.shape[1]} classes is always right", "use top1")
    truth = scores.class_labels(batch.labels, found.shape[1], batch.views)
    own = np.take_along_axis(found, truth[:, None], axis=1)
    earlier = (found == own) & (np.arange(found.shape[1]) < truth[:, None])
    return scores.as_column(((found > own) | earlier).sum(axis=1) < 5)


def summarize(rows: np.ndarray) -> float:
    return float(100 * rows[:, 0].mean())


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return 100 * scores.means(rows, counts)


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float | None:  # noqa: ARG001  # the protocol's
    """The share of the five most frequent classes: what a model scores that always names them."""
    return None if classes is None else 100 * scores.most_frequent(classes, 5)
