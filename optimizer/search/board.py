"""What a search says while it runs: a line per finished trial, and on a terminal the table of what stands out."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer.console import duration, table
from optimizer.gates import Gate
from optimizer.search import pareto
from optimizer.values import Measurement, Trial

SHOWN = 12  # rows of the table


def line(trial: Trial, count: int, gate: Gate, left: float) -> str:
    """One finished trial with the time that is left."""
    told = [told_as(m) for m in (trial.objective, pareto.harm(trial, gate)) if m]
    numbers = f"  {', '.join(told)}" if told else ""
    took = f"({duration(trial.seconds)}, {duration(left)} left)"
    return f"trial {count:<3} {trial.name}{numbers}  {trial.outcome}: {trial.reason}  {took}"


def standings(trials: Sequence[Trial], gate: Gate, best: Sequence[str]) -> list[str]:
    """The Pareto table: what nothing else beats in both respects, the best of each target marked."""
    rows = []
    for trial in pareto.front(trials, gate)[:SHOWN]:
        lost = pareto.harm(trial, gate)
        mark = "*" if trial.name in best else ""
        rows.append([mark, trial.name, told_as(trial.objective), told_as(lost), trial.standing or ""])
    if not rows:
        return ["the accuracy of no trial is measured yet"]
    return table(rows, ["", "trial", "objective", "accuracy", "gates"]).splitlines()


def told_as(found: Measurement | None) -> str:
    """`2.31x [2.2, 2.4]`, `spearman drop 0.0012 [-0.001, 0.003]`."""
    if found is None:
        return "not measured"
    unit = found.unit if found.unit in ("x", "%") else f" {found.unit}".rstrip()
    interval = f" [{found.low:.3g}, {found.high:.3g}]" if found.low is not None and found.high is not None else ""
    if found.relation == "speedup":
        return f"{found.value:.3g}x{interval}"
    what = found.metric if found.relation == "absolute" else f"{found.metric} {found.relation}"
    return f"{what} {found.value:.3g}{unit}{interval}"
