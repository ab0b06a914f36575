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
    both = _totals(predicted, counts, size) + _totals(truth, counts, size)
    right = _totals(truth[hit], counts[:, hit], size)
    both, right = both[:, 1:], right[:, 1:]
    occurs = both > 0
    scored = np.divide(2 * right, both, out=np.zeros_like(both), where=occurs)
    found: np.ndarray = 100 * scored.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
    return found


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float:  # noqa: ARG001  # the rows hold the labels
    """F1 of a model that always answers the most frequent class: 2p / (1 + p) for its share p, 0 for other classes."""
    counts = np.unique(rows[rows[:, 1] != REST, 1], return_counts=True)[1]
    if not counts.size:
        return 0.0
    share = float(counts.max()) / len(rows)
    return 100 * 2 * share / (1 + share) / len(counts)


def _totals(classes: np.ndarray, counts: np.ndarray, size: int) -> np.ndarray:
    """How often each class was drawn in each resample: (resamples, size)."""
    found = np.zeros((len(counts), size))
    if len(classes):
        order = np.argsort(classes, kind="stable")
        ordered = classes[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        found[:, ordered[starts]] = np.add.reduceat(counts[:, order], starts, axis=1)
    return found
