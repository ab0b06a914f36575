"""What the evaluation data can resolve, told before anything runs: per accuracy gate the smallest drop it can see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from optimizer import dataset
from optimizer.errors import OptimizerError
from optimizer.gates import Gate
from optimizer.measure import shares
from optimizer.plan import Evaluation, Plan
from optimizer.store import Store

DISCORDANT = 0.02
"""Share of examples whose result is assumed to change: INT8 candidates of the shipped recipes change 0.3 to 3 %."""


@dataclass(frozen=True)
class Resolution:
    """How fine an accuracy gate can judge: half the width of the interval that it will be judged by."""

    gate: str
    data: str
    examples: int | None  # None: not known before the first run
    smallest: float | None  # in `unit`; None: not known before the first run
    margin: float | None  # what the gate allows; None for a gate on the value itself
    unit: str
    basis: str  # what `smallest` assumes, or why it is not known
    guessed: bool = False  # `smallest` stands on an assumption too rough to warn by

    @property
    def too_small(self) -> bool:
        """Whether a candidate without any drop would still end inconclusive."""
        if self.smallest is None or self.margin is None or self.guessed:
            return False
        return self.margin < self.smallest

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit == "pp" else self.unit
        count = f"{self.examples:,} examples" if self.examples is not None else "examples not counted"
        if self.smallest is None:
            return f"{self.data}, {count}: the smallest resolvable drop is {self.basis}"
        what = "drop" if self.margin is not None else "distance from the limit"
        return f"{self.data}, {count}: resolves a {what} of {self.smallest:.2g}{unit} ({self.basis})"

    @property
    def warning(self) -> str | None:
        """What to do about a gate that this data cannot decide; None where it can."""
        if not self.too_small or self.smallest is None or self.margin is None or self.examples is None:
            return None
        unit = f" {self.unit}" if self.unit else ""
        enough = math.ceil(self.examples * (self.smallest / self.margin) ** 2) if self.margin > 0 else 0
        return (
            f"gate '{self.gate}': its margin of {self.margin:g}{unit} is below the {self.smallest:.2g}{unit} that "
            f"{self.examples:,} examples resolve ({self.basis}): then even a candidate without any drop ends "
            f"inconclusive; evaluate on {f'about {enough:,}' if enough else 'more'} examples, or allow more"
        )


def foretell(plan: Plan, store: Store) -> list[Resolution]:
    """One resolution per gate on an accuracy metric, from the plan and what the store remembers of earlier runs."""
    wanted = [gate for gate in plan.gates if gate.metric in plan.metrics]
    if not wanted:
        return []
    record = _record(plan, store)
    examples = record["examples"] if record else _count(plan, store)
    return [_resolution(gate, plan, store, examples, record) for gate in wanted]


def _resolution(
    gate: Gate, plan: Plan, store: Store, examples: int | None, record: dict[str, Any] | None
) -> Resolution:
    plugin, options = plan.metrics[gate.metric]
    drop = gate.relation == "drop"
    unit = getattr(options, "unit", plugin.UNIT)
    unit = "pp" if unit == "%" else unit
    last = store.last(plan.precision_slot(gate.metric)) if drop else None
    smallest, basis, guessed = None, "not known before the first run", False
    if last:
        smallest, basis = float(last["half"]), "the widest interval of the last run on this data"
    elif examples is not None and examples > 1:
        spread = (record or {}).get("spread", {}).get(gate.metric)
        if getattr(plugin, "SHARE", False):
            smallest, basis = _of_shares(examples, gate, drop)
        elif spread:
            smallest, basis, guessed = _of_numbers(examples, spread, drop)
    data = plan.data["evaluate"].name
    return Resolution(gate.text, data, examples, smallest, gate.threshold if drop else None, unit, basis, guessed)


def _of_shares(examples: int, gate: Gate, drop: bool) -> tuple[float, str]:
    """From the number of examples alone, and an assumption about how many change."""
    if drop:
        basis = f"assuming that {100 * DISCORDANT:g} % of the answers change, both ways alike"
        return 100 * shares.resolvable(examples, DISCORDANT), basis
    limit = min(max(gate.threshold / 100, 0.0), 1.0)
    low, high = shares.wilson(examples * limit, examples)
    return 50 * (high - low), "half the interval of a share at the limit"


def _of_numbers(examples: int, spread: dict[str, float], drop: bool) -> tuple[float, str, bool]:
    """From the standard error that an earlier evaluation of the baseline found, and whether that is a guess.

    When a share d of the examples gets unrelated results, the difference of two influence values has the variance
    2 d times that of one, so the paired standard error is sqrt(2 d) times that of the value. Where numbers move a
    little everywhere the interval comes out narrower. The floor of the paired interval is no guess: it is never
    narrower than that.
    """
    if not drop:
        return shares.Z * spread["error"], "from the baseline's results in the store", False
    paired = shares.Z * math.sqrt(2 * DISCORDANT) * spread["error"]
    floor = shares.unseen(examples) * abs(spread["value"])
    if floor >= paired:
        return floor, "a change in so few examples that none of these shows it", False
    basis = f"at most, from the baseline's results in the store, if {100 * DISCORDANT:g} % of the examples change"
    return paired, basis, True


def _record(plan: Plan, store: Store) -> dict[str, Any] | None:
    """What the store knows of an evaluation on this data: of a baseline, else of any candidate."""
    against = set(plan.baselines.values())
    ordered: list[Evaluation] = sorted(plan.evaluations, key=lambda e: e.candidate not in against)
    entries = (store.get(evaluation.key) for evaluation in ordered)
    return next((entry.record for entry in entries if entry), None)


def _count(plan: Plan, store: Store) -> int | None:
    """How many examples the data has; remembered, since counting may have to load a reader."""
    data = plan.data["evaluate"]
    slot = f"examples of {data.digest}"
    known = store.last(slot)
    if known:
        return int(known["examples"])
    try:
        found = dataset.count(data.spec)
    except OptimizerError:
        return None  # data that cannot be opened is reported where it is used
    if found is not None:
        store.remember(slot, {"examples": found})
    return found
