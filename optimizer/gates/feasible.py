"""Refuses, before anything runs, the gates that the planned measurements could never answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from optimizer.errors import OptimizerError, suggestion
from optimizer.gates.grammar import LOADED, TIMED, Gate, fault
from optimizer.values import Better


@dataclass(frozen=True)
class Fact:
    """What a gate must know of an accuracy metric."""

    unit: str
    better: Better
    comparative: bool  # the metric itself compares with the baseline


NEEDS = {
    "offline.throughput": "add measure.offline, for example {batch: [1, 8], streams: 2}",
    **dict.fromkeys(("server.p50", "server.p90", "server.p99"), "give measure.server a rate, for example {rate: 100}"),
    "server.rate": "give measure.server a bound, for example {bound: 20ms}",
}
"""What a recipe lacks that does not measure a metric of a scenario."""


def check(
    gates: Sequence[Gate],
    metrics: Mapping[str, Fact],
    latency_on: bool,
    batches: Collection[int],
    loaded: Mapping[str, str | Collection[int]] | None = None,
) -> None:
    """Raise OptimizerError for a gate that the planned measurements could never answer.

    `loaded`: metric of a scenario -> the batch sizes it is measured at, or why it will have no value.
    """
    loads = loaded or {}
    measured = [name for name, at in loads.items() if not isinstance(at, str)]
    available = [*metrics, "size", *(m for m in TIMED if latency_on), *measured]
    for gate in gates:
        where = f"gate '{gate}'"
        if gate.metric not in available:
            reason = loads.get(gate.metric)
            if isinstance(reason, str):
                raise OptimizerError(f"{where}: {reason}", "make measure.server.seconds longer")
            meant = None if gate.metric in LOADED else suggestion(gate.metric, available)
            hint = f"did you mean '{meant}'?" if meant else _how_to_measure(gate.metric)
            listed = ", ".join(available)
            raise OptimizerError(f"{where}: '{gate.metric}' is not measured by this recipe; available: {listed}", hint)
        _check_batch(gate, where, loads.get(gate.metric, batches))
        _check_facts(gate, metrics.get(gate.metric))


def _check_batch(gate: Gate, where: str, batches: Iterable[object]) -> None:
    if gate.batch is None or gate.batch in (sizes := list(batches)):
        return
    scenario, what = ("offline", "offline throughput") if gate.metric in LOADED else ("latency", "latency")
    raise OptimizerError(
        f"{where}: no {what} is measured at batch {gate.batch}; available: {', '.join(map(str, sizes))}",
        f"add {gate.batch} to measure.{scenario}.batch",
    )


def _how_to_measure(metric: str) -> str:
    if metric in NEEDS:
        return NEEDS[metric]
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
