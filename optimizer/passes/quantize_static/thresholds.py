"""Where to clip a tensor, decided on the histogram of its values.

Counts are signed: 2 * BINS of them over [-top, top], the magnitudes of negative and of positive values apart.
Percentile and entropy look at magnitudes and clip both ends alike; the squared error is searched for each end.
"""

from __future__ import annotations

import numpy as np

BINS = 2048  # per side of zero
LEVELS = 128  # steps of 8 bits for one side of zero
STEPS = 255  # steps of 8 bits from end to end
STRIDE = 8  # the search looks at every eighth threshold: finer differences do not show in the result
TINY = 1e-10


def bins_of(values: np.ndarray, top: float) -> np.ndarray:
    """Counts (2 * BINS,) of `values` over [-top, top]; zero counts as positive."""
    scaled = values.ravel() * np.float32(BINS / top)
    bins = np.minimum(np.abs(scaled).astype(np.int64), BINS - 1)
    return np.bincount(np.where(scaled < 0, BINS - 1 - bins, BINS + bins), minlength=2 * BINS)


def magnitudes(counts: np.ndarray) -> np.ndarray:
    """The counts (BINS,) of magnitudes over [0, top]."""
    found: np.ndarray = counts[BINS:] + counts[BINS - 1 :: -1]
    return found


def percentile(counts: np.ndarray, top: float, share: float) -> tuple[float, float]:
    """The range around zero in which `share` percent of all values lie."""
    cumulated = np.cumsum(magnitudes(counts))
    index = int(np.searchsorted(cumulated, share / 100 * cumulated[-1]))
    limit = top * min(index + 1, BINS) / BINS
    return -limit, limit


def mse(counts: np.ndarray, top: float, symmetric: bool) -> tuple[float, float]:
    """The range whose 8-bit grid gives the smallest mean squared error, found by looking at all.

    Inside, a value is rounded by up to half a step, step^2 / 12 on average over a smooth distribution; outside, it
    is off by its distance to the end. Zero costs nothing, since every grid holds it. `symmetric`: both ends alike.
    """
    counts = counts.astype(np.float64)
    counts[BINS] = min(counts[BINS], counts[BINS + 1])  # without exact zeros, as after ReLU
    (inner_below, cut_below), (inner_above, cut_above) = _outwards(counts[BINS - 1 :: -1]), _outwards(counts[BINS:])
    limits = np.arange(0, BINS + 1, STRIDE) / BINS
    if symmetric:
        errors = (inner_below + inner_above) * (2 * limits / STEPS) ** 2 / 12 + cut_below + cut_above
        best = top * float(limits[1:][np.argmin(errors[1:])])
        return -best, best
    steps = (limits[:, None] + limits[None, :]) / STEPS
    errors = (inner_below[:, None] + inner_above[None, :]) * steps**2 / 12 + cut_below[:, None] + cut_above[None, :]
    errors[0, 0] = np.inf  # no range at all
    low, high = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return -top * float(limits[low]), top * float(limits[high])


def _outwards(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each limit on one side of zero: how many values lie inside, and the squared distances of those outside."""
    centres = (np.arange(BINS) + 0.5) / BINS
    limits = np.arange(0, BINS + 1, STRIDE)
    # sum over x > t of n (x - t)^2, from the sums of n, n x and n x^2 beyond t
    inside, *_ = sums = [np.append(0.0, np.cumsum(counts * centres**power))[limits] for power in range(3)]
    number, first, second = (kept[-1] - kept for kept in sums)
    return inside, second - 2 * limits / BINS * first + (limits / BINS) ** 2 * number


def entropy(counts: np.ndarray, top: float) -> tuple[float, float]:
    """The clipping threshold whose 8-bit distribution loses least information (Migacz, GTC 2017, S7310).

    For each candidate the clipped histogram P, its tail added to the last bin, is compared with Q, the same bins
    merged into LEVELS steps and spread again over the bins that are not empty; the smallest KL(P | Q) wins.
    """
    counts = magnitudes(counts).astype(np.float64)
    counts[0] = counts[1]  # exact zeros, as after ReLU, are kept by any threshold
    if not counts.any():
        return -top, top
    candidates = range(LEVELS, BINS + 1, STRIDE)
    losses = [_divergence(counts[:size], counts[size:].sum()) for size in candidates]
    limit = top * candidates[int(np.argmin(losses))] / BINS
    return -limit, limit


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
