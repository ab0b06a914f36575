"""Which candidates are confirmed, and which are shipped: the fastest per target of those that pass."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from optimizer import gates
from optimizer.bundle.runner import RUNNERS
from optimizer.gates import Gate
from optimizer.values import Candidate, Measurement, Run, Verdict, on


def selected(
    given: Sequence[Gate],
    measurements: Sequence[Measurement],
    candidates: Sequence[Candidate],
    baseline: str | None,
    every: bool,
) -> list[str]:
    """What was chosen on the `select` data: per target the fastest (or `every` one) that meets all gates.

    Here the values themselves must meet the limits, whatever their intervals: the choice only proposes, and what it
    proposes is proven or refused on the `evaluate` data.
    """
    values = [replace(m, low=None, high=None, protocol={}) for m in measurements]
    bad = {v.subject for v in gates.judge(given, values, candidates, baseline) if v.outcome != "pass"}
    able = [c for c in candidates if c.skipped is None and c.name not in bad and baseline not in (c.variant, c.name)]
    targets = list(dict.fromkeys(c.target for c in able))
    found = able if every else [_fastest([c for c in able if c.target == t], measurements) for t in targets]
    return [c.name for c in found]


def judged(
    given: Sequence[Gate],
    measurements: Sequence[Measurement],
    selection: Sequence[Measurement],
    candidates: Sequence[Candidate],
    baseline: str | None,
    confirmed: Collection[str],
) -> list[Verdict]:
    """The verdicts of a run with a `select` split: on `evaluate` about what was confirmed.

    A target on which nothing was chosen is judged on `select`: that says why, and nothing of it passes all gates.
    """
    settled = {c.target for c in candidates if c.name in confirmed}
    known = {c.name: c for c in candidates}

    def about(verdicts: list[Verdict], chosen: bool) -> list[Verdict]:
        return [v for v in verdicts if v.subject not in known or _meant(known[v.subject], chosen)]

    def _meant(candidate: Candidate, chosen: bool) -> bool:
        if baseline in (candidate.variant, candidate.name):
            return chosen
        return candidate.name in confirmed if chosen else candidate.target not in settled

    found = about(gates.judge(given, measurements, candidates, baseline), chosen=True)
    costs = [m for m in measurements if m.metric not in {s.metric for s in selection}]
    refused = about(gates.judge(given, [*costs, *selection], candidates, baseline), chosen=False)
    refused = [replace(v, reason=f"On the select data: {v.reason}") for v in refused if v.subject in known]
    return [*found, *refused]


def chosen(run: Run, which: str, allow_failed: bool) -> list[Candidate]:
    """The candidates to bundle: all that may be shipped, or per target the fastest of them.

    Only targets with a runner can be shipped (pytorch refers to the user's own code). A candidate with a gate that
    did not pass is left out unless `allow_failed`, and so is then its target's baseline: nobody asked for it alone.
    What could not be measured here is bundled with its baseline, to be measured and chosen from where it runs.
    Where candidates were chosen on a `select` split, only what was confirmed can be shipped.
    """
    if which == "none":
        return []
    waiting = {c.name for c in run.candidates if c.pending}
    bad = {v.subject for v in run.verdicts if v.outcome == "fail" or (v.outcome != "pass" and v.subject not in waiting)}
    spoilt = {c.target for c in run.candidates if c.name in bad}
    plain = (run.baseline or "").partition("@")[0]
    accuracies = {m.metric for m in run.selection}
    confirmed = {m.subject for m in run.measurements if m.metric in accuracies}
    able = [
        c
        for c in run.candidates
        if not c.skipped and c.target in RUNNERS and (not run.selection or c.name in confirmed)
        if allow_failed or not (c.name in bad or (c.variant == plain and c.target in spoilt))
    ]
    beside = {on(run.baseline, c.target) for c in able if c.name in waiting and run.baseline}
    beside -= {c.name for c in run.candidates if c.skipped or c.target not in RUNNERS}
    if which == "all":
        return [c for c in run.candidates if c in able or c.name in beside]
    timed = [c for c in able if c.name not in waiting]
    targets = list(dict.fromkeys(c.target for c in timed))
    best = [_fastest([c for c in timed if c.target == t], run.measurements) for t in targets]
    late = [c for c in run.candidates if (c in able and c.name in waiting) or c.name in beside]
    return best + [c for c in late if c not in best]  # which of these is best is known once they are measured


def crowded(candidates: Sequence[Candidate], baseline: str | None) -> str | None:
    """A note where several candidates of one target were judged on the same data; None where there is one each."""
    tried = [c for c in candidates if not (c.skipped or c.pending) and baseline not in (c.variant, c.name)]
    most = max((sum(c.target == t for c in tried) for t in {c.target for c in tried}), default=0)
    if most < 2:
        return None
    return (
        f"{most} candidates per target were judged on the same data: a pass is corrected for all {len(tried)} (Holm), "
        "but the accuracy of the best of them looks better than it is; data: {select: ...} chooses on other examples"
    )


def _fastest(candidates: Sequence[Candidate], measurements: Sequence[Measurement]) -> Candidate:
    return min(candidates, key=lambda c: _rank(measurements, c))


def _rank(measurements: Sequence[Measurement], candidate: Candidate) -> tuple[float, int]:
    """Median latency at the smallest batch, then size: lower is better."""
    found = [
        (m.at.get("batch", 1), m.value)
        for m in measurements
        if (m.subject, m.metric, m.relation) == (candidate.name, "latency.p50", "absolute")
    ]
    return (min(found)[1] if found else 0.0, candidate.size or 0)
