"""Share of examples whose highest score is the label's, in percent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
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
    """1 where the first of the highest scores is the label's, else 0."""
    found = scores.class_scores(outputs, options.output, len(batch.indices) * batch.views)
    truth = scores.class_labels(batch.labels, found.shape[1], batch.views)
    return scores.as_column(found.argmax(axis=1) == truth)


def summarize(rows: np.ndarray) -> float:
    return float(100 * rows[:, 0].mean())


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return 100 * scores.means(rows, counts)


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float | None:  # noqa: ARG001  # the protocol's
    """The share of the most frequent class: what a model scores that always answers it."""
    return None if classes is None else 100 * scores.most_frequent(classes, 1)
