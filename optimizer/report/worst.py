"""The slice of the data on which a candidate loses most, as one line."""

from __future__ import annotations

from dataclasses import replace

from optimizer.report import numerals
from optimizer.report.text import flat
from optimizer.values import Measurement, Run


def worst_slice(run: Run) -> str | None:
    """The slice whose drop is certain to be largest; None for a run without slices.

    Ranked by the lower end of the interval that holds for all slices at once (Bonferroni): the largest value alone
    would name the smallest, noisiest slice. Of several metrics the recipe's first one that has drops speaks.
    """
    drops = [m for m in run.slices if m.relation == "drop" and m.protocol.get("simultaneous")]
    if not drops:
        return None
    first = next(m.metric for m in drops)
    ranked = [m for m in drops if m.metric == first]
    worst = max(ranked, key=_low)
    place = f"{worst.at['column']} = {worst.at['value']}"
    together = replace(worst, low=_low(worst), high=float(worst.protocol["simultaneous"][1]))
    compared = worst.protocol["comparisons"]
    found = (
        f"Worst slice: {flat(place)}, where {first} of {worst.subject} drops by {numerals.full(together)} "
        f"(n = {worst.n}; the 95 % interval is Bonferroni's for all {compared} drops compared)"
    )
    return found + ("." if _low(worst) > 0 else ", so no slice is certain to drop.")


def _low(drop: Measurement) -> float:
    return float(drop.protocol["simultaneous"][0])
