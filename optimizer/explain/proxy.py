"""The error of a variant's outputs on a few samples: cheap enough to try every layer, and near what a metric sees."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence, Set

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.explain.sums import Sums
from optimizer.explain.variants import Variants
from optimizer.protocols import Feeds


class Proxy:
    """Noise over signal of the worst output against the variant with every layer in float."""

    def __init__(self, variants: Variants, samples: Sequence[Feeds]) -> None:
        self._variants, self._samples = variants, samples
        self._known: dict[object, float] = {}
        self._faults: dict[object, str] = {}
        session = variants.session({layer.name for layer in variants.layers})
        self._expected = [session(feeds) for feeds in samples]
        self.count = sum(len(next(iter(feeds.values()))) for feeds in samples)  # rows

    def error(self, kept: Set[str]) -> float:
        """Noise power over signal power; infinite where values are NaN that were none, and for what cannot run."""
        key = self._variants.same(kept)
        if key not in self._known:
            try:
                self._known[key] = self._measured(kept)
            except OptimizerError as error:
                self._known[key] = math.inf
                self._faults[key] = re.sub(r" /\S*optc-\S+", "", error.message)[:200]  # the folder is gone by then
        return self._known[key]

    def fault(self, kept: Set[str]) -> str | None:
        """Why a variant cannot run here, or None."""
        self.error(kept)
        return self._faults.get(self._variants.same(kept))

    def _measured(self, kept: Set[str]) -> float:
        session = self._variants.session(kept)
        sums: dict[str, Sums] = {}
        for feeds, expected in zip(self._samples, self._expected, strict=True):
            for name, found in session(feeds).items():
                if expected[name].dtype.kind == "f":
                    sums.setdefault(name, Sums()).add(expected[name], found)
                else:  # class indices and the like: the share that differs
                    differs = (expected[name] != found).astype(np.float64)
                    sums.setdefault(name, Sums()).add(np.ones_like(differs), 1 - differs)
        return max((s.ratio for s in sums.values()), default=0.0)


def decibel(ratio: float) -> float:
    """Noise over signal as a signal to noise ratio in dB, kept within what JSON can hold."""
    if ratio <= 0:
        return 999.0
    return -999.0 if math.isinf(ratio) else -10 * math.log10(ratio)
