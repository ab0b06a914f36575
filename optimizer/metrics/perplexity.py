"""Perplexity of a language model: e to the mean negative log-likelihood of the label's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from optimizer import scores
from optimizer.errors import OptimizerError, unknown
from optimizer.protocols import Batch, Labels
from optimizer.schema import Strict
from optimizer.values import Better, Unit

UNIT: Unit = ""
BETTER: Better = "lower"
AGAINST: Literal["labels"] = "labels"
LABELS: Labels = "tokens"
LARGEST = 700.0  # nats per token; e to more than this is no float


class Options(Strict):
    output: str | None = Field(
        None, description="the output with logits (samples, tokens, vocabulary); default: the first"
    )
    ignore_index: int = Field(-100, description="label that is not counted")
    shift: bool = Field(
        True, description="logits at one token predict the next label; false: the label at the same place"
    )
    mask: str | None = Field(
        None, description="the model input that is 0 where a token is padding, e.g. attention_mask"
    )


def examples(outputs: Mapping[str, np.ndarray], batch: Batch, options: Options) -> np.ndarray:
    """Rows (sum of negative log-likelihoods in nats, number of tokens counted, size of the vocabulary)."""
    found = scores.labels(batch.labels, batch.views)
    logits = scores.output(outputs, options.output, len(found))
    if logits.ndim != 3:
        raise OptimizerError(
            f"the output has shape {list(logits.shape)}, not (samples, tokens, vocabulary)",
            scores.advice("the logits", outputs) or "let the model return logits",
        )
    if options.mask is not None and options.mask not in batch.feeds:
        raise unknown("model input", options.mask, batch.feeds, where="the metric's option 'mask'")
    rows = np.empty((len(found), 3))
    for place, (own, label) in enumerate(zip(logits, found, strict=True)):
        tokens = _tokens(label, len(own), options.ignore_index)
        if options.mask is not None:
            tokens = np.where(batch.feeds[options.mask][place] != 0, tokens, options.ignore_index)
        own, tokens = (own[:-1], tokens[1:]) if options.shift else (own, tokens)
        rows[place] = *_likelihood(own, tokens, options.ignore_index), logits.shape[2]
    return rows


def summarize(rows: np.ndarray) -> float:
    """e to the mean over all tokens of all examples; 1 when no token is counted."""
    return float(weighted(rows, scores.once(rows))[0])


def weighted(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
    loss, tokens = (counts @ rows[:, :2]).T
    found: np.ndarray = np.exp(np.minimum(loss / np.maximum(tokens, 1), LARGEST))
    return found


def constant(rows: np.ndarray, classes: np.ndarray | None) -> float:  # noqa: ARG001  # the protocol's signature
    """The size of the vocabulary: what a model scores that finds every token equally likely."""
    return float(rows[:, 2].max())


def _tokens(label: object, length: int, ignored: int) -> np.ndarray:
    """One label per place of the logits; what the batch was padded with is not counted."""
    tokens = np.asarray(label)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise OptimizerError(
            f"the labels are {tokens.dtype}{list(tokens.shape)}, not one row of token ids per example",
            "name the column of token ids: label: input_ids",
        )
    if len(tokens) > length:
        raise OptimizerError(
            f"a label has {len(tokens)} tokens, the output only {length}", "cut both to the same length"
        )
    return np.pad(tokens.astype(np.int64), (0, length - len(tokens)), constant_values=ignored)


def _likelihood(logits: np.ndarray, tokens: np.ndarray, ignored: int) -> tuple[float, int]:
    kept = np.flatnonzero(tokens != ignored)
    chosen, vocabulary = tokens[kept], logits.shape[1]
    outside = chosen[(chosen < 0) | (chosen >= vocabulary)]
    if outside.size:
        raise OptimizerError(
            f"the label {outside[0]} is no token of the model: its vocabulary has {vocabulary}",
            "check the label column, and 'ignore_index' for labels that do not count",
        )
    own = logits[kept].astype(np.float64)
    top = own.max(axis=1, initial=-np.inf, keepdims=True)
    loss = np.log(np.exp(own - top).sum(axis=1)) + top[:, 0] - own[np.arange(len(kept)), chosen]
    if not np.isfinite(loss).all():
        raise OptimizerError("the model gives a label's token the probability 0", "check the output and the labels")
    return float(loss.sum()), len(kept)
