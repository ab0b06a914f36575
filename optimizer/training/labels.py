"""Losses against labels: which one fits is read off the output and the labels, and said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError, unknown
from optimizer.training.settings import Labels
from optimizer.training.student import Outputs
from optimizer.training.values import Examples, TensorBatch, numbers
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch

LOOKED = 4096  # labels that are looked at to tell what they are


@dataclass(frozen=True)
class Labelled:
    """The loss of one output against the labels. `low` and `high` are the ends of the labels' scale."""

    kind: Labels
    output: str
    smoothing: float
    low: float
    high: float

    def __call__(self, outputs: Outputs, batch: TensorBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The mean over the batch, and for classes the share that is right."""
        from torch.nn import functional

        found, labels = outputs[self.output], batch.labels
        assert labels is not None
        if self.kind == "cross-entropy":
            wide = labels.long().repeat_interleave(batch.views, 0)
            value = functional.cross_entropy(found, wide, label_smoothing=self.smoothing)
            return value, {"accuracy": 100 * (found.detach().argmax(1) == wide).float().mean()}
        if self.kind == "binary":
            flat = found.reshape(-1)
            value = functional.binary_cross_entropy_with_logits(flat, labels.to(flat.dtype).reshape(-1))
            return value, {"accuracy": 100 * ((flat.detach() > 0) == (labels.reshape(-1) > 0.5)).float().mean()}
        if self.kind == "cosine":
            pairs = found.reshape(len(labels), 2, -1)
            alike = functional.cosine_similarity(pairs[:, 0], pairs[:, 1], dim=-1)
            return functional.mse_loss(alike, (labels.to(alike.dtype) - self.low) / (self.high - self.low)), {}
        return functional.mse_loss(found.reshape(labels.shape), labels.to(found.dtype)), {}


def labelled(
    examples: Examples, signature: Signature, kind: Labels, output: str | None, smoothing: float, where: str
) -> Labelled:
    """The loss that compares an output (default: the first) with the labels of the training data.

    `auto` takes cross-entropy for class numbers and scores, binary cross-entropy for 0 or 1 and one score, the error of
    the cosine for pairs of embeddings, and the squared error for everything else. Raises OptimizerError for data
    without labels, and for labels that do not fit the output.
    """
    known = [spec.name for spec in signature.outputs]
    if output is not None and output not in known:
        raise unknown("output", output, known, where)
    name = output or known[0]
    shape = next(spec.shape for spec in signature.outputs if spec.name == name)
    seen = examples.at(np.arange(min(len(examples), LOOKED)))
    labels = numbers(seen.labels)
    if labels is None:
        raise OptimizerError(
            f"{where} compares with labels, the data '{examples.name}' has none that are numbers of one shape",
            "name the label's column in the data (label: COLUMN); distill learns from a teacher without labels",
        )
    chosen = kind if kind != "auto" else _fitting(labels, shape, seen.views)
    _refuse_misfit(chosen, labels, shape, name, seen.views, where)
    low, high = float(labels.min()), float(labels.max())
    return Labelled(chosen, name, smoothing, low, high if high > low else low + 1)


def _whole(labels: np.ndarray) -> bool:
    return bool(labels.dtype.kind in "biu" or (labels == np.round(labels)).all())


def _fitting(labels: np.ndarray, shape: tuple[int | str, ...], views: int) -> Labels:
    if views == 2 and labels.ndim == 1 and len(shape) == 2:
        return "cosine"
    scores = len(shape) - labels.ndim == 1 and len(shape) >= 2
    if scores and shape[1] != 1 and _whole(labels):
        return "cross-entropy"
    single = labels.ndim == 1 and (len(shape) == 1 or shape[1:] == (1,))
    return "binary" if single and set(np.unique(labels).tolist()) <= {0, 1} else "mse"


def _refuse_misfit(
    kind: Labels, labels: np.ndarray, shape: tuple[int | str, ...], name: str, views: int, where: str
) -> None:
    what = f"the output '{name}' is [{', '.join(map(str, shape))}] and a label is {_shown(labels)}"
    if kind == "cosine" and (views != 2 or labels.ndim != 1):
        raise OptimizerError(
            f"{where}: the loss cosine compares pairs; {what}, with {views} views per example",
            "tokenize with views: true, and label each pair with one number",
        )
    if kind == "cross-entropy":
        if len(shape) - labels.ndim != 1 or not _whole(labels):
            raise OptimizerError(
                f"{where}: cross-entropy needs class numbers; {what}", "name the labels' column, or loss: mse"
            )
        classes = shape[1]
        if isinstance(classes, int) and not (0 <= labels.min() and labels.max() < classes):
            raise OptimizerError(
                f"{where}: labels go from {labels.min():g} to {labels.max():g}, the output '{name}' has scores for "
                f"{classes} classes, from 0",
                "name the labels' column, or the output with the scores (output)",
            )
    sizes = int(np.prod([d for d in shape[1:] if isinstance(d, int)])) if len(shape) > 1 else 1
    if kind in ("mse", "binary") and all(isinstance(d, int) for d in shape[1:]) and sizes * views != labels[0].size:
        raise OptimizerError(
            f"{where}: the loss {kind} needs as many labels as outputs; {what}", "name another output, column or loss"
        )


def _shown(labels: np.ndarray) -> str:
    return "one number" if labels.ndim == 1 else f"an array {list(labels.shape[1:])}"
