"""F1 in percent: the mean over classes (macro), or that of one positive class."""

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
REST = -1  # a class that no F1 is computed for


class Options(Strict):
    output: str | None = Field(None, description="the output with the scores; default: the first")
    positive: int | None = Field(None, ge=0, description="F1 of this class alone; default: the mean over all classes")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """Rows (predicted class, label); with `positive`, every other class is -1."""
    found = scores.class_scores(outputs, options.output, len(batch.indices) * batch.views)
    rows = np.stack([found.argmax(axis=1), scores.class_labels(batch.labels, found.shape[1], batch.views)], axis=1)
    if options.positive is not None:
        rows = np.where(rows == options.positive, rows, REST)
    return rows.astype(np.float64)


def summarize(rows: np.ndarray) -> float:
    """Mean F1 over the classes that occur among predictions or labels; 0 when none does."""
    return float(weighted(rows, scores.once(rows))[0])


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    shifted = rows.astype(np.int64) + 1  # REST becomes 0, and is left out of the mean
    predicted, truth = shifted.T
    size = int(shifted.max(initial=0)) + 1
    hit = predicted == truth
    return np.array([_macro(predicted, truth, hit, weights, size) for weights in counts])


def _macro(predicted: np.ndarray, truth: np.ndarray, hit: np.ndarray, weights: np.ndarray, size: int) -> float:
    both = np.bincount(predicted, weights, size) + np.bincount(truth, weights, size)
    right = np.bincount(truth[hit], weights[hit], size)
    occurs = both > 0
    occurs[0] = False
    return float(100 * (2 * right[occurs] / both[occurs]).mean()) if occurs.any() else 0.0
