"""Looks at calibration data before it is used: what makes it meaningless, and what makes it doubtful."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.protocols import Dataset

FEW = 32  # below this, ranges still move a lot with each further sample
SPOILT = "a single one spoils every range that calibration measures"
UNSCORED = "what a model answers to it cannot be scored"
ALIKE = 0.5  # ranges that share less than this part of the wider one are unlike


@dataclass(frozen=True)
class Seen:
    """What a pass over samples leaves behind: one digest per sample, and the range of every input."""

    digests: list[bytes]
    ranges: dict[str, tuple[float, float]]
    continuous: set[str]  # inputs that are floating point


def inspect(calibrate: Dataset, evaluate: Dataset | None, samples: int) -> list[str]:
    """Findings, one sentence each; raises OptimizerError for data that cannot calibrate anything."""
    seen = _look(calibrate, samples, SPOILT)
    _refuse_constant(calibrate.name, seen)
    findings = [*_few(calibrate), *_constant_inputs(seen), *_duplicates(seen)]
    if evaluate is not None:
        other = _look(evaluate, samples, UNSCORED)
        findings += [*_overlap(seen, other, evaluate.name), *_unlike(seen, other, evaluate.name)]
    return findings


def _look(data: Dataset, samples: int, harm: str) -> Seen:
    digests: list[bytes] = []
    ranges: dict[str, tuple[float, float]] = {}
    continuous: set[str] = set()
    for batch in data.batches(1, limit=samples):  # one by one, so that padding does not hide equal samples
        digest = hashlib.blake2b(digest_size=16)
        for name, array in sorted(batch.feeds.items()):
            _refuse_nonfinite(data.name, int(batch.indices[0]), name, array, harm)
            digest.update(np.ascontiguousarray(array).tobytes())
            if array.size:
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, float(array.min())), max(high, float(array.max())))
            if array.dtype.kind == "f":
                continuous.add(name)
        digests.append(digest.digest())
    if not digests:
        raise OptimizerError(f"data '{data.name}' is empty", "check its path, and 'skip' in its card")
    return Seen(digests, ranges, continuous)


def _refuse_nonfinite(data: str, index: int, name: str, array: np.ndarray, harm: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinity"
        raise OptimizerError(
            f"data '{data}', example {index}: input '{name}' holds {what}",
            f"repair or remove the example; {harm}",
        )


def _refuse_constant(data: str, seen: Seen) -> None:
    if all(low == high for low, high in seen.ranges.values()):
        values = ", ".join(f"{name} {low:g}" for name, (low, _) in seen.ranges.items())
        raise OptimizerError(
            f"data '{data}' is constant: every value of all {len(seen.digests)} samples is the same ({values})",
            "calibrate on real samples; check the transforms",
        )
    if len(seen.digests) > 1 and len(set(seen.digests)) == 1:
        raise OptimizerError(
            f"data '{data}': all {len(seen.digests)} samples are identical", "calibrate on samples that differ"
        )


def _few(data: Dataset) -> list[str]:
    if len(data) >= FEW:
        return []
    return [f"only {len(data)} calibration samples; {FEW} or more (a few hundred is usual) give stable ranges"]


def _constant_inputs(seen: Seen) -> list[str]:
    constant = [n for n in sorted(seen.continuous) if n in seen.ranges and seen.ranges[n][0] == seen.ranges[n][1]]
    return [f"input '{name}' is {seen.ranges[name][0]:g} in every calibration sample" for name in constant]


def _duplicates(seen: Seen) -> list[str]:
    again = sum(count - 1 for count in Counter(seen.digests).values())
    return [f"{again} of {len(seen.digests)} calibration samples repeat another one"] if again else []


def _overlap(seen: Seen, other: Seen, name: str) -> list[str]:
    shared = len(set(seen.digests) & set(other.digests))
    if not shared:
        return []
    return [
        f"{shared} of {len(seen.digests)} calibration samples are also among the first {len(other.digests)} of the "
        f"evaluation set '{name}': its result flatters what was tuned on them"
    ]


def _unlike(seen: Seen, other: Seen, name: str) -> list[str]:
    findings = []
    for which in sorted(seen.continuous & other.continuous & seen.ranges.keys() & other.ranges.keys()):
        (low, high), (least, most) = seen.ranges[which], other.ranges[which]
        shared = min(high, most) - max(low, least)
        if shared < ALIKE * max(high - low, most - least):
            findings.append(
                f"input '{which}' ranges from {low:.4g} to {high:.4g} in calibration but from {least:.4g} to "
                f"{most:.4g} in the evaluation set '{name}': check that both have the same transforms"
            )
    return findings
