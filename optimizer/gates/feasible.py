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
    has_baseline: bool = True,
    facts: Mapping[str, tuple[str, Better]] | None = None,
    candidates: Collection[str] = (),
) -> None:
    """Raise OptimizerError for a gate that the planned measurements could never answer.

    `facts` gives unit and better side of accuracy metrics, `candidates` the names "variant@target"; what is
    not given is not checked.
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
        if gate.relation != "absolute" and not has_baseline:
            raise OptimizerError(f"{where}: a {gate.relation} needs a baseline", "name one: baseline: fp32")
        _check_facts(gate, (facts or {}).get(gate.metric))
        _check_subject(gate, candidates)


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


def _check_subject(gate: Gate, candidates: Collection[str]) -> None:
    if gate.subject is None or not candidates:
        return
    names = [*dict.fromkeys(name.partition("@")[0] for name in candidates), *candidates]
    if gate.subject not in names:
        meant = suggestion(gate.subject, names)
        raise OptimizerError(
            f"gate '{gate}': no variant or candidate '{gate.subject}'; available: {', '.join(names)}",
            f"did you mean '{meant}'?" if meant else "a subject is variant or variant@target",
        )
