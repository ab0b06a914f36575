"""Refuses, before anything runs, the gates that the planned measurements could never answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optimizer.errors import OptimizerError, suggestion
from optimizer.gates.grammar import TIMED, Gate, fault
from optimizer.values import Better


@dataclass(frozen=True)
class Fact:
    """What a gate must know of an accuracy metric."""

    unit: str
    better: Better
    comparative: bool  # the metric itself compares with the baseline


def check(gates: Sequence[Gate], metrics: Mapping[str, Fact], latency_on: bool, batches: Collection[int]) -> None:
    """Raise OptimizerError for a gate that the planned measurements could never answer."""
    available = [*metrics, "size", *(m for m in TIMED if latency_on)]
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
        _check_facts(gate, metrics.get(gate.metric))


def _how_to_measure(metric: str) -> str:
    return "switch on measure.latency, or remove the gate" if metric in TIMED else f"add {metric} to measure.metrics"


def _check_facts(gate: Gate, fact: Fact | None) -> None:
    if fact is None:
        return
    if fact.comparative and gate.relation != "absolute":
        hint = f"write {gate.metric} {gate.op} ... without '{gate.relation}'"
        raise fault(gate.text, f"'{gate.metric}' already compares with the baseline", hint)
    if gate.unit and fact.unit != "%":
        raise fault(gate.text, f"'{gate.metric}' has no unit, so '{gate.unit}' cannot be compared", "write no unit")
    if gate.relation == "absolute" and gate.below != (fact.better == "lower"):
        raise fault(gate.text, f"{fact.better} is better for '{gate.metric}'", "turn the comparison round")
