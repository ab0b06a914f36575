"""When a change counts as a regression: tolerances as a person writes them, and the decision about one interval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from optimizer.comparison.values import Judged, Rules
from optimizer.errors import OptimizerError, unknown

RATIOS = {"latency.p50": 0.05, "throughput": 0.05, "size": 0.01, "memory.peak": 0.10}
REPORTED = {"latency.p90": 0.05, "latency.p95": 0.05, "latency.p99": 0.05, "load.time": 0.25, "cold.start": 0.25}
DROPS = {"%": 0.5, "": 0.005}
SPEED, GROWTH = ("latency.p50", "throughput"), ("size",)


def rules(
    slowdown: str | None = None,
    drops: Sequence[str] = (),
    growth: str | None = None,
    tolerances: Sequence[str] = (),
) -> Rules:
    """The rules behind --max-slowdown, --max-drop, --max-growth and --tolerance METRIC=VALUE.

    A metric that is otherwise only reported is judged once it has a tolerance of its own. Raises OptimizerError for
    what cannot be read.
    """
    ratios, reported, lost = dict(RATIOS), dict(REPORTED), dict(DROPS)
    if slowdown is not None:
        ratios |= dict.fromkeys(SPEED, _share("--max-slowdown", slowdown))
    if growth is not None:
        ratios |= dict.fromkeys(GROWTH, _share("--max-growth", growth))
    for text in drops:
        lost |= dict([_drop("--max-drop", text)])
    for text in tolerances:
        metric, _, value = text.partition("=")
        option = f"--tolerance {metric}"
        if not metric or not value:
            raise OptimizerError(f"--tolerance {text}: cannot be read", "write for example --tolerance load.time=25%")
        if metric in RATIOS or metric in REPORTED:
            ratios[metric] = _share(option, value)
        elif metric.partition(".")[0] in ("latency", "throughput", "memory", "load", "cold"):
            raise unknown("metric", metric, [*RATIOS, *REPORTED], "--tolerance")
        else:
            lost[metric] = _drop(option, value)[1]
    return Rules(ratios, {k: v for k, v in reported.items() if k not in ratios}, lost)


def _share(option: str, text: str) -> float:
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|x)\s*", text)
    if not found or (found[2] == "x" and float(found[1]) < 1):
        raise OptimizerError(f"{option} {text}: is no tolerance", "write a share such as 5%, or a factor such as 1.05x")
    number = float(found[1])
    return number / 100 if found[2] == "%" else number - 1


def _drop(option: str, text: str) -> tuple[str, float]:
    """The unit of a metric to which this limit applies, and the limit in it."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(pp)?\s*", text)
    if not found:
        raise OptimizerError(
            f"{option} {text}: is no drop", "write percentage points such as 0.5pp, or 0.005 for a metric without unit"
        )
    return ("%" if found[2] else ""), float(found[1])


def tolerance_of(metric: str, unit: str, known: Rules) -> tuple[float | None, bool]:
    """The tolerance of a metric, and whether it is judged."""
    if metric in known.ratios:
        return known.ratios[metric], True
    if metric in known.reported:
        return known.reported[metric], False
    return known.drops.get(metric, known.drops.get(unit)), True


def decide(low: float, high: float, limit: float, below: bool) -> Judged:
    """Whether [low, high] lies on the good side of the limit, on the bad side, or on both."""
    if below:
        return "pass" if high <= limit else "fail" if low > limit else "inconclusive"
    return "pass" if low >= limit else "fail" if high < limit else "inconclusive"


def limit_of(tolerance: float, higher: bool) -> float:
    """The ratio after / before at which a loss of `tolerance` is reached: 1.05, or 1/1.05 where more is better."""
    return 1 / (1 + tolerance) if higher else 1 + tolerance


def mapping(texts: Sequence[str]) -> Mapping[str, str]:
    """--map old=new, repeatable."""
    pairs = [text.partition("=") for text in texts]
    for text, (old, _, new) in zip(texts, pairs, strict=True):
        if not old or not new:
            raise OptimizerError(f"--map {text}: cannot be read", "write --map old=new, variants or variant@target")
    return {old: new for old, _, new in pairs}
