"""What a series of call times shows beside its median: drift, dependence between calls, more than one mode.

None of it changes a number: the intervals already count processes and rounds, not calls. It says whether the
measurement went as one would wish, and how many independent calls its calls are worth.
"""

from __future__ import annotations

import itertools

import numpy as np

BINS = 512
SHARE = 0.1  # of all calls that a mode must hold
VALLEY = 0.7  # two peaks are two modes when the density between them falls below this share of the smaller one
LEAST = 50  # calls without which no mode is looked for


def drift(times: np.ndarray) -> float:
    """Relative change of the block medians from the first to the last, by the Theil-Sen slope.

    `times` is (restarts, rounds, calls) in the order they were taken. Robust against 29 % of outlying blocks
    (Sen 1968, JASA 63:1379).
    """
    medians = np.median(times, axis=2).ravel()
    count = len(medians)
    if count < 3:
        return 0.0
    first, second = np.triu_indices(count, 1)
    slope = float(np.median((medians[second] - medians[first]) / (second - first)))
    return slope * (count - 1) / float(np.median(medians))


def autocorrelation(times: np.ndarray) -> tuple[float, int]:
    """Correlation of a call with the next, and how many independent calls all of them are worth.

    Taken inside each restart and averaged; the effective number is n over the integrated autocorrelation time, summed
    while pairs of lags stay positive (Geyer 1992, Statistical Science 7:473).
    """
    series = np.log(times.reshape(len(times), -1))
    n = series.shape[1]
    centred = series - series.mean(axis=1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(centred, 2 * n, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :n].mean(axis=0) / n
    if n < 4 or covariance[0] <= 1e-18:
        return 0.0, int(times.size)
    rho = covariance / covariance[0]
    pairs = rho[: n - n % 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    kept = pairs[: ends[0]] if ends.size else pairs
    span = max(1.0, 2 * float(kept.sum()) - 1)
    return float(rho[1]), max(1, int(times.size / span))


def modes(times: np.ndarray) -> list[float]:
    """The modes of the call times, in their unit, smallest first: peaks of a kernel density of the logarithms.

    The bandwidth is Silverman's (1986, Density Estimation, eq. 3.31), at least 1 %, so that clock ticks are no
    modes. A peak counts when it holds a tenth of all calls and a valley parts it from its neighbour.
    """
    logs = np.log(times.ravel())
    if logs.size < LEAST:
        return [float(np.median(times))]
    low, high = np.quantile(logs, [0.005, 0.995])
    spread = min(float(logs.std()), float(np.subtract(*np.quantile(logs, [0.75, 0.25]))) / 1.34)
    width = max(0.9 * spread * logs.size**-0.2, 0.01)
    edges = np.linspace(low - 3 * width, high + 3 * width, BINS + 1)
    step = edges[1] - edges[0]
    reach = int(np.ceil(4 * width / step))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    density = np.convolve(np.histogram(logs, edges)[0], kernel, "same")
    places = _peaks(density)
    return [float(np.exp((edges[p] + edges[p + 1]) / 2)) for p in places]


def _peaks(density: np.ndarray) -> list[int]:
    """Places of the peaks that count."""
    inner = np.flatnonzero((density[1:-1] > density[:-2]) & (density[1:-1] >= density[2:])) + 1
    kept: list[int] = []
    for place in inner.tolist():
        if kept:
            valley = density[kept[-1] : place + 1].min()
            if valley > VALLEY * min(density[kept[-1]], density[place]):
                kept[-1] = max(kept[-1], place, key=lambda p: density[p])
                continue
        kept.append(place)
    cuts = [0, *(a + int(density[a : b + 1].argmin()) for a, b in itertools.pairwise(kept)), len(density)]
    total = density.sum()
    found = [p for p, (a, b) in zip(kept, itertools.pairwise(cuts), strict=True) if density[a:b].sum() >= SHARE * total]
    return found or [int(density.argmax())]
