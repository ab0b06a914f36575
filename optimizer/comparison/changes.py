"""What became of every metric of one candidate, and whether that is a regression."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from typing import Any

from optimizer.comparison import intervals
from optimizer.comparison.likeness import at_text, is_cost
from optimizer.comparison.rules import decide, limit_of, tolerance_of
from optimizer.comparison.values import Change, Judged, Pair, Rules
from optimizer.measure.quantiles import Estimate
from optimizer.values import Measurement, Run

Drops = Mapping[tuple[str, str], Measurement]
"""(pair's name, metric) -> the drop of the later one against the earlier one, on the same examples."""
SAME = "the very same measurement"
TIMED = ("latency.", "throughput")


def changes(before: Run, after: Run, pair: Pair, rules: Rules, drops: Drops) -> list[Change]:
    """Every metric that either run has of this pair, in the order of the runs."""
    if pair.before.skipped or pair.after.skipped:
        return [_built(pair)]
    old, new = _absolutes(before, pair.before.name), _absolutes(after, pair.after.name)
    floors = {at: _floors(old.get(("latency.p50", at)), new.get(("latency.p50", at))) for _, at in {**old, **new}}
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if a is None or b is None:
            found.append(_missing(pair.name, a, b, rules))
        elif is_cost(a.metric):
            found.append(_cost(pair.name, a, b, rules, floors[key[1]]))
        else:
            found.append(_accuracy(pair.name, a, b, rules, drops.get((pair.name, a.metric))))
    return found


def timed(name: str, before: Measurement, after: Measurement, ratio: Estimate, method: str, rules: Rules) -> Change:
    """A change of which the ratio after / before was measured in one session."""
    return _judged(_draft(name, before, after, "ratio", method, ratio), rules)


def _absolutes(run: Run, subject: str) -> dict[tuple[str, str], Measurement]:
    return {(m.metric, at_text(m.at)): m for m in run.measurements if m.subject == subject and m.relation == "absolute"}


def _floors(*timings: Measurement | None) -> list[float]:
    return [float(m.protocol["noise_floor"]) for m in timings if m is not None and "noise_floor" in m.protocol]


def _cost(name: str, a: Measurement, b: Measurement, rules: Rules, floors: list[float]) -> Change:
    if _same(a, b):
        return _judged(_draft(name, a, b, "ratio", SAME, Estimate(1.0, 1.0, 1.0)), rules)
    if a.value <= 0 or b.value <= 0:
        return _missing(name, a if a.value > 0 else None, b if b.value > 0 else None, rules)
    if a.metric.startswith(TIMED) and 1 in (a.protocol.get("restarts"), b.protocol.get("restarts")):
        return _once(_draft(name, a, b, "ratio", "none: one process says nothing of the next", _quotient(a, b)), rules)
    floors = floors if a.metric.startswith(TIMED) else []
    restarts = [m.protocol.get("restart_p50") or [] for m in (a, b)]
    suffix = intervals.FLOORS if floors else ""
    if all(len(r) > 1 for r in restarts):
        ratio = intervals.of_restarts(restarts[0], restarts[1], floors)
        draft = _draft(name, a, b, "ratio", intervals.SESSIONS + suffix, ratio)
        # The numbers beside the ratio are those it is made of, not the medians over all calls.
        one, other = (statistics.geometric_mean(r) for r in restarts)
        return _judged(dataclasses.replace(draft, before=one, after=other), rules)
    before, after = _estimate(a), _estimate(b)
    if before is None or after is None or min(before.low, after.low) <= 0:
        draft = _draft(name, a, b, "ratio", "exact", _quotient(a, b))
        return _judged(dataclasses.replace(draft, low=None, high=None), rules)
    ratio = intervals.of_intervals(before, after, floors)
    return _judged(_draft(name, a, b, "ratio", intervals.TWO_INTERVALS + suffix, ratio), rules)


def _quotient(a: Measurement, b: Measurement) -> Estimate:
    """after / before as it is, without an interval."""
    return Estimate(b.value / a.value, b.value / a.value, b.value / a.value)


def _once(draft: Change, rules: Rules) -> Change:
    """A timing of one process on either side: shown, and never decided."""
    tolerance, judged = tolerance_of(draft.metric, draft.unit, rules)
    reason = f"{draft.metric}{place(draft)} was timed in one process, which says nothing of the next: measure with "
    return dataclasses.replace(
        draft, low=None, high=None, tolerance=tolerance, outcome="inconclusive" if judged else "reported",
        reason=f"{reason}2 restarts or more.",
    )  # fmt: skip


def _accuracy(name: str, a: Measurement, b: Measurement, rules: Rules, paired: Measurement | None) -> Change:
    if _same(a, b) or (a.value == b.value and _entry(a) is not None and _entry(a) == _entry(b)):
        return _judged(_draft(name, a, b, "drop", SAME, Estimate(0.0, 0.0, 0.0)), rules)
    if paired is not None and paired.low is not None and paired.high is not None:
        method = f"paired on {paired.n:,} examples: {paired.protocol.get('interval', 'interval')}"
        return _judged(_draft(name, a, b, "drop", method, Estimate(paired.value, paired.low, paired.high)), rules)
    one, other = _estimate(a), _estimate(b)
    sign = 1 if a.better == "higher" else -1
    if one is None or other is None:
        value = sign * (a.value - b.value)
        draft = _draft(name, a, b, "drop", "exact", Estimate(value, value, value))
        return _judged(dataclasses.replace(draft, low=None, high=None), rules)
    found = intervals.difference(one, other)
    low, high = sorted((sign * found.low, sign * found.high))
    method = f"not paired (results per example are not at hand): {intervals.TWO_INTERVALS}"
    return _judged(_draft(name, a, b, "drop", method, Estimate(sign * found.value, low, high)), rules)


def _same(a: Measurement, b: Measurement) -> bool:
    return a == dataclasses.replace(b, subject=a.subject, against=a.against)


def _entry(m: Measurement) -> Any:
    """The store's key of the results per example: one key, one evaluation."""
    return m.protocol.get("entry")


def _estimate(m: Measurement) -> Estimate | None:
    return None if m.low is None or m.high is None else Estimate(m.value, m.low, m.high)


def _draft(name: str, a: Measurement, b: Measurement, relation: Any, method: str, found: Estimate) -> Change:
    return Change(
        name, a.metric, relation, a.value, b.value, a.unit, a.better, found.value, found.low, found.high, method,
        None, "reported", "", dict(a.at), (a.n, b.n),
    )  # fmt: skip


def _judged(draft: Change, rules: Rules) -> Change:
    """The change with its tolerance, its outcome and the reason as a sentence."""
    tolerance, judged = tolerance_of(draft.metric, draft.unit, rules)
    assert draft.value is not None
    low = draft.value if draft.low is None else draft.low
    high = draft.value if draft.high is None else draft.high
    spread = "exact" if draft.low is None else f"95 % interval {shown(low, draft)} to {shown(high, draft)}"
    what = f"{draft.metric}{place(draft)}"
    is_ratio = draft.relation == "ratio"
    lead = (
        f"{what} is {shown(draft.value, draft)} of before"
        if is_ratio
        else f"{what} drops by {shown(draft.value, draft)}"
    )
    if tolerance is None:
        return dataclasses.replace(draft, reason=f"{lead} ({spread}); no tolerance is set for '{draft.unit}'.")
    higher = is_ratio and draft.better == "higher"
    limit = limit_of(tolerance, higher) if is_ratio else tolerance
    outcome = decide(low, high, limit, below=not higher)
    bound = f"{'at least' if higher else 'at most'} {shown(limit, draft)}"
    ending = {
        "pass": f"{bound} is asked for",
        "fail": f"none of it within {bound}",
        "inconclusive": f"the limit of {bound} lies within",
    }[outcome]
    note = "" if judged else " Reported only."
    final: Judged = outcome if judged else "reported"
    return dataclasses.replace(draft, tolerance=tolerance, outcome=final, reason=f"{lead} ({spread}), {ending}.{note}")


def _missing(name: str, a: Measurement | None, b: Measurement | None, rules: Rules) -> Change:
    m = a or b
    assert m is not None
    tolerance, judged = tolerance_of(m.metric, m.unit, rules)
    change = Change(
        name, m.metric, "ratio" if is_cost(m.metric) else "drop", a.value if a else None, b.value if b else None,
        m.unit, m.better, None, None, None, "", tolerance, "reported", "", dict(m.at),
        (a.n if a else 0, b.n if b else 0),
    )  # fmt: skip
    lost = b is None
    outcome: Judged = "inconclusive" if lost and judged and tolerance is not None else "reported"
    when = "was measured before and not after" if lost else "was not measured before"
    return dataclasses.replace(change, outcome=outcome, reason=f"{m.metric}{place(change)} {when}.")


def _built(pair: Pair) -> Change:
    lost = pair.after.skipped
    reason = f"it was built before and is skipped now: {lost}" if lost else "it was skipped before and is built now."
    return Change(
        pair.name, "built", "drop", float(not pair.before.skipped), float(not lost), "", "higher", None, None, None,
        "", None, "fail" if lost else "reported", reason,
    )  # fmt: skip


def place(change: Change) -> str:
    """` at batch 8`, or nothing where there is only one setting."""
    text = at_text(change.at)
    return f" at {text}" if text else ""


def shown(value: float, change: Change) -> str:
    """A ratio as `1.02x`, a drop as `0.3 pp` or `0.0031`."""
    if change.relation == "ratio":
        return f"{value:.3f}x"
    return f"{value:.2f} pp" if change.unit == "%" else f"{value:.4f}"
