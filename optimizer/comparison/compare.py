"""Two runs -> what changed between them and whether that is a regression: pure, from values to a value."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from optimizer.comparison import likeness
from optimizer.comparison.changes import Drops, changes, timed
from optimizer.comparison.differences import differences
from optimizer.comparison.values import Change, Comparison, Difference, Pair, Pairing, Rules, Side
from optimizer.measure.quantiles import Estimate
from optimizer.values import Measurement, Outcome, Run

NO_DROPS: Drops = {}
Session = Mapping[tuple[str, str], Sequence[Measurement]]
"""(pair's name, "before" or "after") -> what one interleaved session measured of it."""


def compare(
    before: tuple[str, Run],
    after: tuple[str, Run],
    pairing: Pairing,
    rules: Rules,
    across: Collection[str] = (),
    drops: Drops = NO_DROPS,
    session: Session | None = None,
    advice: str = "",
) -> Comparison:
    """The comparison of two labelled runs.

    `drops` are paired differences of accuracy; what has none is compared without pairing. `session` holds timings of
    both sides from one interleaved session, which then take the place of the recorded ones. `advice` ends the
    sentence of an inconclusive comparison. Raises OptimizerError for unlike runs, unless `across` allows it.
    """
    (_, old), (_, new) = before, after
    unlike = likeness.unlike(old, new, pairing, timed=session is None)
    likeness.refuse(unlike, across)
    found: list[Change] = []
    for pair in pairing.pairs:
        own = changes(old, new, pair, rules, drops)
        found += own if session is None else [*_untimed(own), *_timed(pair, session, rules)]
    outcome = _outcome(found)
    allowed = [Difference("across", u.sentence) for u in unlike]
    notes = tuple(
        f"only {when}: {', '.join(names)}"
        for when, names in (("before", pairing.only_before), ("after", pairing.only_after))
        if names
    )
    return Comparison(
        _side(before), _side(after), pairing, tuple(found), (*allowed, *differences(old, new, pairing)), outcome,
        _sentence(found, pairing, outcome, advice), notes,
    )  # fmt: skip


def _side(labelled: tuple[str, Run]) -> Side:
    label, run = labelled
    return Side(label, run.name, run.created, run.version, run.machine.digest)


def _untimed(found: list[Change]) -> list[Change]:
    """What a session does not measure anew: size and accuracy."""
    return [c for c in found if c.metric == "size" or not likeness.is_cost(c.metric)]


def _timed(pair: Pair, session: Session, rules: Rules) -> list[Change]:
    """The changes that the session measured, ratios turned to after / before."""
    old = {(m.metric, likeness.at_text(m.at)): m for m in session[pair.name, "before"] if m.relation == "absolute"}
    later = session[pair.name, "after"]
    new = {(m.metric, likeness.at_text(m.at)): m for m in later if m.relation == "absolute"}
    ratios = {(m.metric, likeness.at_text(m.at)): m for m in later if m.relation in ("speedup", "ratio")}
    found = []
    for key, m in ratios.items():
        if key in old and key in new and m.metric != "size":
            method = "one interleaved session" if m.low is not None else "one session, exact"
            found.append(timed(pair.name, old[key], new[key], _after_to_before(m), method, rules))
    return found


def _after_to_before(m: Measurement) -> Estimate:
    low, high = (m.value if end is None else end for end in (m.low, m.high))
    return Estimate(1 / m.value, 1 / high, 1 / low) if m.relation == "speedup" else Estimate(m.value, low, high)


def _outcome(found: Sequence[Change]) -> Outcome:
    outcomes = {c.outcome for c in found}
    if "fail" in outcomes:
        return "fail"
    return "pass" if "pass" in outcomes and "inconclusive" not in outcomes else "inconclusive"


def _sentence(found: Sequence[Change], pairing: Pairing, outcome: Outcome, advice: str) -> str:
    """The whole answer: the word, how many metrics, and the first that decide it by name."""
    judged = [c for c in found if c.outcome != "reported"]
    deciding = [c for c in judged if c.outcome == outcome]
    count = f"{len(judged)} judged metric{'s' if len(judged) != 1 else ''} of {_candidates(len(pairing.pairs))}"
    if outcome == "pass":
        return f"Passed: none of {count} regressed."
    if not judged:
        return f"Inconclusive: no metric that is judged was measured on both sides.{_more(advice)}"
    named = " ".join(f"{c.subject}: {c.reason}" for c in deciding[:2])
    rest = f" And {len(deciding) - 2} more." if len(deciding) > 2 else ""
    if outcome == "fail":
        return f"Failed: {len(deciding)} of {count} regressed. {named}{rest}"
    return f"Inconclusive: {len(deciding)} of {count} cannot be decided. {named}{rest}{_more(advice)}"


def _candidates(number: int) -> str:
    return f"{number} candidate{'s' if number != 1 else ''}"


def _more(advice: str) -> str:
    return f" {advice}" if advice else ""
