"""Refuses, before anything runs, the gates that the planned measurements could never answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from optimizer.errors import OptimizerError, suggestion
from optimizer.gates.grammar import TIMED, Gate, fault
from optimizer.values import Better


def check(
    gates: Sequence[Gate],
    metric_names: Iterable[str],
    latency_on: bool,
    batches: Collection[int],
    *,
    memory_on: bool = True,
    facts: Mapping[str, tuple[str, Better]] | None = None,
) -> None:
    """Raise OptimizerError for a gate that the planned measurements could never answer.

    `facts` gives unit and better side of accuracy metrics; a metric that it lacks is not checked for them.
    """
    available = [*metric_names, "size", *(m for m in TIMED if latency_on and (memory_on or m != "memory.peak"))]
    for gate in gates:
        where = f"gate '{gate}'"
        if gate.metric not in available:
            meant = suggestion(gate.metric, available)
            hint = f"did you mean '{meant}'?" if meant else _how_to_measure(gate.metric)
            listed = ", ".join(available)
            raise OptimizerError(f"{where}: '{gate.metric}' is not measured by this recipe; available: {listed}", hint)
        if gate.batch is not None and gate.batch not in batches:
            listed = ", ".join(map(str, batches))
            raise OptimizerError(
                f"{where}: no latency is measured at batch {gate.batch}; available: {listed}",
                f"add {gate.batch} to measure.latency.batch",
            )
        _check_facts(gate, (facts or {}).get(gate.metric))


def _how_to_measure(metric: str) -> str:
    if metric == "memory.peak":
        return "switch on measure.memory and measure.latency, or remove the gate"
    return "switch on measure.latency, or remove the gate" if metric in TIMED else f"add {metric} to measure.metrics"


def _check_facts(gate: Gate, fact: tuple[str, Better] | None) -> None:
    if fact is None:
        return
    unit, better = fact
    if gate.unit and unit != "%":
        raise fault(gate.text, f"'{gate.metric}' has no unit, so '{gate.unit}' cannot be compared", "write no unit")
    if gate.relation == "absolute" and gate.below != (better == "lower"):
        raise fault(gate.text, f"{better} is better for '{gate.metric}'", "turn the comparison round")
