"""Arithmetic that several metrics share: outputs -> scores, labels, similarities; rows -> weighted statistics.

Functions that end in a `counts` argument compute one value per bootstrap resample at once: `counts` is
(resamples, examples) and says how often each example was drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from optimizer.errors import OptimizerError, unknown

OTHERS = "use the metric cosine (any output of fixed size), or a function of your own (file.py:function)"


def advice(what: str, outputs: Mapping[str, np.ndarray]) -> str | None:
    """How to choose an output; None where there is no other."""
    return (
        f"choose {what} with the metric's option 'output'; outputs: {', '.join(outputs)}" if len(outputs) > 1 else None
    )


def output(outputs: Mapping[str, np.ndarray], name: str | None, samples: int) -> np.ndarray:
    """The named output, or the first; its first axis must count samples."""
    if name is not None and name not in outputs:
        raise unknown("output", name, outputs, where="the model")
    chosen = name or next(iter(outputs))
    found = outputs[chosen]
    if found.ndim == 0 or found.shape[0] != samples:
        raise OptimizerError(
            f"the output '{chosen}' has shape {list(found.shape)}, not one row for each of {samples} samples",
            advice("another", outputs) or "let the model return one row per sample",
        )
    return found


def class_scores(outputs: Mapping[str, np.ndarray], name: str | None, samples: int) -> np.ndarray:
    """Scores (samples, classes) of a classifier; trailing axes of size 1 are dropped."""
    found = output(outputs, name, samples)
    while found.ndim > 2 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.ndim != 2 or found.shape[1] < 2:
        raise OptimizerError(
            f"the output '{name or next(iter(outputs))}' has shape {list(found.shape)}, not (samples, classes)",
            advice("the scores", outputs) or f"let the model return scores (samples, classes), or {OTHERS}",
        )
    return found


def labels(found: np.ndarray | None, views: int = 1) -> np.ndarray:
    """One label per example; raises OptimizerError where the data has none, or several."""
    if found is None:
        raise OptimizerError("the evaluation data has no label", "name the label's column: label: COLUMN")
    if views > 1:
        raise OptimizerError(
            f"the metric takes one sample per example, the data has {views} views", "use spearman, pearson or cosine"
        )
    return found


def class_labels(found: np.ndarray | None, classes: int, views: int = 1) -> np.ndarray:
    """Labels as class indices below `classes`."""
    whole = labels(found, views)
    if whole.ndim != 1 or whole.dtype.kind not in "biuf" or (whole != whole.astype(np.int64)).any():
        raise OptimizerError(
            "the labels are no class indices", "use a metric for numbers, or name the classes in 'labels'"
        )
    outside = np.flatnonzero((whole < 0) | (whole >= classes))
    if outside.size:
        raise OptimizerError(
            f"the label {whole[outside[0]]} is out of range: the model has {classes} classes, 0 to {classes - 1}",
            "check the label column, or use the model that these labels are for",
        )
    return whole.astype(np.int64)


def most_frequent(classes: np.ndarray, count: int) -> float:
    """The share of the examples (0 to 1) whose class is one of the `count` most frequent."""
    found = np.sort(np.unique(classes, return_counts=True)[1])
    return float(found[-count:].sum() / len(classes))


def predictions(outputs: Mapping[str, np.ndarray], name: str | None, examples: int, views: int) -> np.ndarray:
    """One number per example: the model's own, or for two views the cosine similarity of their outputs."""
    found = output(outputs, name, examples * views).astype(np.float64)
    flat = found.reshape(len(found), -1)
    if views == 2 and found.ndim == 2:
        return cosines(flat[0::2], flat[1::2])
    if views == 1 and flat.shape[1] == 1:
        return flat[:, 0]
    raise OptimizerError(
        f"the output '{name or next(iter(outputs))}' has shape {list(found.shape)} with {views} view(s) per example",
        "a correlation needs one number per example, or one vector for each of two views; "
        + (advice("another", outputs) or f"let the model return that, or {OTHERS}"),
    )


def pairs(predicted: np.ndarray, found: np.ndarray | None) -> np.ndarray:
    """Rows (prediction, label)."""
    truth = labels(found)
    if truth.dtype.kind not in "biuf":
        raise OptimizerError("the labels are no numbers", "leave label_as out of the data, or use another metric")
    truth = truth.astype(np.float64)
    if truth.ndim != 1:
        raise OptimizerError(f"the labels have shape {list(truth.shape)}, not one number per example", "check 'label'")
    return np.stack([predicted, truth], axis=1)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity row by row; 1 for two zero vectors, 0 when only one is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = np.einsum("ij,ij->i", a, b)
    alike = (a == b).all(axis=1)
    return np.where(alike, 1.0, np.clip(dots / np.where(norms > 0, norms, 1.0), -1.0, 1.0))


def means(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of the first column in each resample."""
    found: np.ndarray = counts @ rows[:, 0] / counts.sum(axis=1)
    return found


def correlations(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Pearson correlation of the two columns in each resample; 0 where one of them is constant."""
    x, y = (rows - rows.mean(axis=0)).T
    total = counts.sum(axis=1)
    mean_x, mean_y = counts @ x / total, counts @ y / total
    covariance = counts @ (x * y) / total - mean_x * mean_y
    variances = (counts @ (x * x) / total - mean_x**2) * (counts @ (y * y) / total - mean_y**2)
    return _ratio(covariance, variances)


def rank_correlations(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman correlation of the two columns in each resample, ties at their average rank.

    Nothing is sorted per resample: the order of the examples never changes, only how often each counts.
    """
    middle = (counts.sum(axis=1, keepdims=True) + 1) / 2
    x = average_ranks(rows[:, 0], counts) - middle
    y = average_ranks(rows[:, 1], counts) - middle
    weighted = counts * x
    covariance = np.einsum("rn,rn->r", weighted, y)
    variances = np.einsum("rn,rn->r", weighted, x) * np.einsum("rn,rn->r", counts * y, y)
    return _ratio(covariance, variances)


def average_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks (from 1) of all examples in each resample, equal values sharing their average rank."""
    order = np.argsort(values, kind="stable")
    starts = np.concatenate([[True], np.diff(values[order]) != 0])
    sizes = np.add.reduceat(counts[:, order], np.flatnonzero(starts), axis=1)
    ranks = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    group = np.empty(len(values), np.int64)
    group[order] = np.cumsum(starts) - 1
    return ranks[:, group]


def _ratio(covariance: np.ndarray, variances: np.ndarray) -> np.ndarray:
    # Variances of a constant column come out as rounding noise around 0.
    tiny = 1e-24 * max(float(np.max(variances, initial=0.0)), 1e-276)
    safe = np.where(variances > tiny, variances, 1.0)
    return np.where(variances > tiny, np.clip(covariance / np.sqrt(safe), -1.0, 1.0), 0.0)


def once(rows: np.ndarray) -> np.ndarray:
    """The counts of the data itself: every example once."""
    return np.ones((1, len(rows)))


def as_column(values: Any) -> np.ndarray:
    """One number per example as rows (examples, 1)."""
    return np.asarray(values, np.float64).reshape(-1, 1)
