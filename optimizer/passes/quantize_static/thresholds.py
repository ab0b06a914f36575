"""Where to clip a tensor, decided on the histogram of its magnitudes."""

from __future__ import annotations

import numpy as np

BINS = 2048
LEVELS = 128  # steps of 8 bits for one side of zero
STRIDE = 8  # the search looks at every eighth threshold: finer differences do not show in the result
TINY = 1e-10


def bins_of(values: np.ndarray, top: float) -> np.ndarray:
    """Counts (BINS,) of the magnitudes of `values` over [0, top]."""
    scaled = np.abs(values.ravel()) * np.float32(BINS / top)
    return np.bincount(np.minimum(scaled.astype(np.int64), BINS - 1), minlength=BINS)


def percentile(counts: np.ndarray, top: float, share: float) -> float:
    """The magnitude below which `share` percent of all values lie."""
    cumulated = np.cumsum(counts)
    index = int(np.searchsorted(cumulated, share / 100 * cumulated[-1]))
    return top * min(index + 1, BINS) / BINS


def entropy(counts: np.ndarray, top: float) -> float:
    """The clipping threshold whose 8-bit distribution loses least information (Migacz, GTC 2017, S7310).

    For each candidate the clipped histogram P, its tail added to the last bin, is compared with Q, the same bins
    merged into LEVELS steps and spread again over the bins that are not empty; the smallest KL(P | Q) wins.
    """
    counts = counts.astype(np.float64)
    counts[0] = counts[1] if len(counts) > 1 else counts[0]  # exact zeros, as after ReLU, are kept by any threshold
    if not counts.any():
        return top
    candidates = range(LEVELS, BINS + 1, STRIDE)
    losses = [_divergence(counts[:size], counts[size:].sum()) for size in candidates]
    return top * candidates[int(np.argmin(losses))] / BINS


def _divergence(kept: np.ndarray, tail: float) -> float:
    p = kept.copy()
    p[-1] += tail
    filled = p > 0
    starts = np.arange(LEVELS) * len(kept) // LEVELS
    widths = np.diff(np.append(starts, len(kept)))
    occupied = np.maximum(np.add.reduceat(filled.astype(np.float64), starts), 1)
    q = np.repeat(np.add.reduceat(kept, starts) / occupied, widths) * filled
    total_p, total_q = p.sum(), q.sum()
    if total_q == 0:
        return float("inf")
    p, q = p[filled] / total_p, np.maximum(q[filled] / total_q, TINY)
    return float(np.sum(p * np.log(p / q)))
