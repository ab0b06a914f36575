"""Linear correlation (Pearson) between the model's number and the label; for two views, of their cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.protocols import Batch, Labels
from optimizer.schema import Strict
from optimizer.values import Better, Unit

UNIT: Unit = ""
BETTER: Better = "higher"
AGAINST: Literal["labels"] = "labels"
LABELS: Labels = "numbers"


class Options(Strict):
    output: str | None = Field(None, description="the output with the number or the embedding; default: the first")


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """Rows (prediction, label)."""
    return scores.pairs(scores.predictions(outputs, options.output, len(batch.indices), batch.views), batch.labels)


def summarize(rows: np.ndarray) -> float:
    """The correlation; 0 when predictions or labels are constant, since then nothing varies together."""
    return float(weighted(rows, scores.once(rows))[0])


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return scores.correlations(rows, counts)


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float:  # noqa: ARG001  # the protocol's signature
    """Nothing varies together with a prediction that is the same for every example."""
    return 0.0
