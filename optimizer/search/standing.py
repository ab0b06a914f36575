"""How the gates of a recipe hold for a trial, on the data that trials are judged on.

The verdict itself is spoken later, on the evaluation data, by the pessimistic end of the interval there. So the value
alone does not say enough: that interval is foretold from the one here, which shrinks with the square root of the number
of examples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizer import gates
from optimizer.gates import Gate
from optimizer.values import Candidate, Measurement, Standing

ORDER: tuple[Standing, ...] = ("sure", "likely", "possible", "broken")


@dataclass(frozen=True)
class Stand:
    """How the gates hold, and where they do not, by how much."""

    level: Standing
    gap: str = ""  # "spearman drop 0.0041, the gate asks <= 0.003"
    excess: float = 0.0  # summed over the gates that are broken, each relative to its limit


def stand(
    given: Sequence[Gate], found: Sequence[Measurement], candidate: Candidate, baseline: str | None, examples: int
) -> Stand:
    """The standing of a candidate; `examples`: of the evaluation data. Gates on what is not there are passed over."""
    asked = [gate for gate in given if _about(gate, candidate) and _pick(gate, found)]
    scales = {"sure": 1.0, "likely": None, "possible": 0.0}
    for level in ORDER[:-1]:
        seen = [_scaled(m, scales[level], examples) for m in found]
        if all(v.outcome == "pass" for v in gates.judge(asked, seen, [candidate], baseline)):
            return Stand(level)
    broken = [(gate, m) for gate in asked if (m := _pick(gate, found)) and _excess(gate, m) > 0]
    told = "; ".join(f"{_what(gate)} {m.value:.3g}{_unit(m)}, the gate asks {_asks(gate, m)}" for gate, m in broken)
    return Stand("broken", told, sum(_excess(gate, m) for gate, m in broken))


def _about(gate: Gate, candidate: Candidate) -> bool:
    return gate.variant in (None, candidate.variant) and gate.target in (None, candidate.target)


def _pick(gate: Gate, found: Sequence[Measurement]) -> Measurement | None:
    wanted = (gate.metric, gate.relation)
    return next((m for m in found if (m.metric, m.relation) == wanted), None)


def _scaled(found: Measurement, scale: float | None, examples: int) -> Measurement:
    """The measurement with its interval widened or narrowed around the value; None: as `examples` would give it."""
    if found.low is None or found.high is None:
        return found
    factor = math.sqrt(found.n / max(examples, 1)) if scale is None else scale
    low, high = (found.value + factor * (end - found.value) for end in (found.low, found.high))
    return replace(found, low=low, high=high, protocol={})


def _excess(gate: Gate, found: Measurement) -> float:
    """How far a value lies on the wrong side, relative to the limit, or to the value where the limit is zero."""
    wrong = found.value - gate.threshold if gate.below else gate.threshold - found.value
    if wrong < 0 or (wrong == 0 and "=" in gate.op):
        return 0.0
    return max(wrong, 1e-12) / (abs(gate.threshold) or abs(found.value) or 1.0)


def _what(gate: Gate) -> str:
    return gate.metric if gate.relation == "absolute" else f"{gate.metric} {gate.relation}"


def _unit(found: Measurement) -> str:
    return found.unit if found.unit in ("", "x", "%") else f" {found.unit}"


def _asks(gate: Gate, found: Measurement) -> str:
    return f"{gate.op} {gate.threshold:g}{_unit(found)}"
