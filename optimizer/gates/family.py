"""Many candidates tried on one data set: p-values corrected for all, so that none passes by luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optimizer.gates.grammar import Gate
from optimizer.values import Measurement

SIDE = 0.025
"""The one-sided level of a 95 % interval: a pass needs a p-value below it."""


@dataclass(frozen=True)
class Evidence:
    """The p-value that the truth lies on a gate's wrong side, alone and within its family."""

    p: float
    adjusted: float
    size: int  # candidates judged by the same gate on the same data

    @property
    def enough(self) -> bool:
        """Whether a pass stands although others were tried too."""
        return self.size < 2 or self.adjusted < SIDE


def family(gate: Gate, found: Sequence[Measurement | None]) -> list[Evidence | None]:
    """The evidence for each measurement of one gate; None where none was taken or its protocol has no p-value."""
    p_values = [_p(gate, m) if m else None for m in found]
    known = [p for p in p_values if p is not None]
    adjusted = iter(holm(known))
    return [None if p is None else Evidence(p, next(adjusted), len(known)) for p in p_values]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for all that were looked at together (Holm 1979, Scand. J. Stat. 6:65), in the same order.

    An adjusted value below a level bounds the chance of any false claim in the family by that level, whatever the
    dependence between them, so it holds for candidates that were tried on the same examples.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    found, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        found[index] = worst
    return found


def sentence(gate: Gate, evidence: Evidence, limit: str) -> str:
    """The p-value in words, with its correction where more than one candidate was tried."""
    what = "a drop" if gate.relation == "drop" else gate.metric
    text = f"p {shown(evidence.p)} for {what} of {limit} or {'more' if gate.below else 'less'}"
    if evidence.size < 2:
        return text
    adjusted = shown(evidence.adjusted).removeprefix("= ")
    return f"{text}, {adjusted} with Holm's correction for {evidence.size} candidates on the same data"


def shown(p: float) -> str:
    """A p-value with two digits and its relation sign."""
    return "< 0.0001" if p < 1e-4 else f"= {p:.2g}"


def _p(gate: Gate, found: Measurement) -> float | None:
    value = found.protocol.get("limit_p", {}).get(f"{gate.threshold:g}")
    return float(value) if isinstance(value, int | float) else None
