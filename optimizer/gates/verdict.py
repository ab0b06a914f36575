"""Judges gates on measurements by the pessimistic end of the interval, and says why in a sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from optimizer.gates.family import Evidence, family, sentence
from optimizer.gates.grammar import KNOWN, LATENCIES, LOADED, TIMED, Gate
from optimizer.values import Candidate, Measurement, Outcome, Verdict

DOUBT = (
    "Alone it would pass, but of several candidates tried on the same data the luckiest looks better than it is: the "
    "corrected p is not below 0.025. Evaluate on more examples, try fewer candidates, or choose on other data (select)."
)


def judge(
    gates: Sequence[Gate],
    measurements: Sequence[Measurement],
    candidates: Sequence[Candidate],
    baseline: str | None,
) -> list[Verdict]:
    """One verdict per gate and candidate that it is about; a gate that is about nothing is inconclusive.

    The baseline (a variant, or variant@target) is not judged against itself; it is judged where a gate names
    it, and by absolute gates when there is no other candidate.
    """
    verdicts: list[Verdict] = []
    for gate in gates:
        subjects = _subjects(gate, candidates, baseline)
        found = [_pick(gate, c.name, measurements) if c.skipped is None else None for c in subjects]
        evidence = family(gate, found)
        verdicts += [_verdict(gate, *given) for given in zip(subjects, found, evidence, strict=True)]
        if not subjects:
            reason = "No candidate was left to be judged: none was built, or there is only the baseline."
            verdicts.append(Verdict(gate.text, _about(gate), "inconclusive", reason))
    return verdicts


def decided(
    gates: Sequence[Gate],
    measurements: Sequence[Measurement],
    candidates: Sequence[Candidate],
    baseline: str | None,
) -> bool:
    """Whether more measuring at the batch sizes at hand would settle no timed gate: none is inconclusive so far.

    A gate without a batch size is about those at hand, whatever they are.
    """
    batches = {None, *(m.at.get("batch") for m in measurements)}
    asked = [gate for gate in gates if gate.metric in TIMED and gate.batch in batches]
    return all(v.outcome != "inconclusive" for v in judge(asked, measurements, candidates, baseline))


def outcome(verdicts: Iterable[Verdict]) -> Outcome | Literal["not gated"]:
    """The worst of all verdicts: fail, then inconclusive, then pass; "not gated" when there is none."""
    found = {verdict.outcome for verdict in verdicts}
    order: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")
    return next((worst for worst in order if worst in found), "not gated")


def _subjects(gate: Gate, candidates: Sequence[Candidate], baseline: str | None) -> list[Candidate]:
    meant = [c for c in candidates if gate.variant in (None, c.variant) and gate.target in (None, c.target)]
    if gate.variant is not None:
        return meant
    built = [c for c in meant if c.skipped is None]
    others = [c for c in built if baseline not in (c.variant, c.name)]
    return others or (built if gate.relation == "absolute" else [])


def _about(gate: Gate) -> str:
    target = f"@{gate.target}" if gate.target else ""
    return f"{gate.variant or 'every variant'}{target}"


def _verdict(gate: Gate, candidate: Candidate, found: Measurement | None, evidence: Evidence | None) -> Verdict:
    if candidate.skipped is not None:
        reason = f"{candidate.name} was not built: {candidate.skipped}"
        return Verdict(gate.text, candidate.name, "inconclusive", reason)
    if found is None and candidate.pending is not None:
        reason = f"Pending: {candidate.pending}. Measure it where it runs: optc measure BUNDLE, or optc build there."
        return Verdict(gate.text, candidate.name, "inconclusive", reason)
    if found is None:
        return Verdict(gate.text, candidate.name, "inconclusive", _missing(gate, candidate.name))
    if gate.unit not in ("", found.unit):
        reason = f"{gate.metric} is measured in '{found.unit or 'no unit'}', the gate asks for '{gate.unit}'."
        return Verdict(gate.text, candidate.name, "inconclusive", reason)
    decided = _decide(gate, found)
    # Holm's correction only ever takes a pass back: a fail that it would doubt keeps a bad candidate out.
    doubted = decided == "pass" and evidence is not None and not evidence.enough
    reason = _reason(gate, found, decided, evidence)
    if doubted:
        return Verdict(gate.text, candidate.name, "inconclusive", f"{reason} {DOUBT}")
    return Verdict(gate.text, candidate.name, decided, reason)


def _missing(gate: Gate, name: str) -> str:
    what = gate.metric if gate.relation == "absolute" else f"{gate.metric} {gate.relation}"
    batch = f" at batch {gate.batch}" if gate.batch is not None else ""
    more = " A high percentile needs many calls: raise measure.latency.seconds." if gate.metric in LATENCIES else ""
    if gate.metric.startswith("server.p"):
        more = " A high percentile needs many requests: raise measure.server.seconds."
    against = " or there is no baseline to compare with" if gate.relation != "absolute" else ""
    return f"{what} was not measured for {name}{batch}{against}.{more}"


def _pick(gate: Gate, subject: str, measurements: Sequence[Measurement]) -> Measurement | None:
    """The measurement a gate is about: at its batch size, else at the smallest that was measured."""
    wanted = (subject, gate.metric, gate.relation)
    found = [m for m in measurements if (m.subject, m.metric, m.relation) == wanted]
    if gate.batch is not None:
        found = [m for m in found if m.at.get("batch") == gate.batch]
    return min(found, key=lambda m: m.at.get("batch", 0), default=None)


def _decide(gate: Gate, found: Measurement) -> Outcome:
    low, high = _ends(found)
    if not all(map(math.isfinite, (low, found.value, high))):
        return "inconclusive"
    best, worst = (low, high) if gate.below else (high, low)
    if _holds(gate, worst):
        return "pass"
    return "inconclusive" if _holds(gate, best) else "fail"


def _holds(gate: Gate, value: float) -> bool:
    if gate.below:
        return value < gate.threshold if gate.op == "<" else value <= gate.threshold
    return value > gate.threshold if gate.op == ">" else value >= gate.threshold


def _ends(found: Measurement) -> tuple[float, float]:
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    return low, high


def _reason(gate: Gate, found: Measurement, decided: Outcome, evidence: Evidence | None) -> str:
    low, high = _ends(found)
    what = gate.metric if gate.relation == "absolute" else f"{gate.metric} {gate.relation}"
    batch = f" at batch {found.at['batch']}" if gate.metric in TIMED and "batch" in found.at else _load(gate, found)
    against = f" against {found.against}" if found.against else ""
    exact = found.low is None and found.high is None
    kind = "bracket" if gate.metric == "server.rate" else "95 % interval"
    spread = "exact" if exact else f"{kind} {_shown(low, '')} to {_shown(high, found.unit)}, n = {found.n}"
    spread += f"; {sentence(gate, evidence, _shown(gate.threshold, found.unit))}" if evidence else ""
    limit = f"{gate.op} {_shown(gate.threshold, found.unit)}"
    ending = {
        "pass": f"all of it {limit}",
        "fail": f"none of it {limit}",
        "inconclusive": f"the limit {limit} lies within",
    }
    verdict = f"which is {'' if decided == 'pass' else 'not '}{limit}" if exact else ending[decided]
    text = f"{what}{batch}{against} is {_shown(found.value, found.unit)} ({spread}), {verdict}."
    remark = found.protocol.get("remark")
    text = f"{text} Note: {remark}." if remark else text
    return text if decided != "inconclusive" else f"{text} {_advice(gate, found)}"


def _load(gate: Gate, found: Measurement) -> str:
    """Under what load a metric of a scenario was taken."""
    if gate.metric not in LOADED:
        return ""
    count = found.at.get("streams", 1)
    streams = f"{count} stream{'' if count == 1 else 's'}"
    if gate.metric == "server.rate":
        bound = f"p{found.protocol.get('percentile')} <= {found.protocol.get('bound_ms', 0):g} ms"
        return f" with {bound}, {streams},"
    rate = f" at {found.at['rate']:g}/s" if "rate" in found.at else f" at batch {found.at.get('batch')}"
    return f"{rate}, {streams},"


def _advice(gate: Gate, found: Measurement) -> str:
    """What would settle an inconclusive gate."""
    low, high = _ends(found)
    if not all(map(math.isfinite, (low, found.value, high))):
        return "The value is not a finite number: look at the outputs for NaN."
    if gate.metric in LOADED:
        scenario = f"measure.{gate.metric.partition('.')[0]}"
        return f"Measure longer ({scenario}.seconds, restarts) or on a quieter machine."
    if gate.metric in KNOWN:
        return "Measure longer (measure.latency: seconds, most_restarts, budget) or on a quieter machine."
    # An interval shrinks with the square root of the number of examples.
    half = max(high - found.value, found.value - low)
    distance = abs(gate.threshold - found.value)
    what = "drop" if gate.relation == "drop" else "difference"
    resolved = f"{found.n} examples resolve a {what} of about {_shown(half, found.unit)} and no smaller one"
    if distance < half / 1000:
        return f"{resolved}; the value lies on the limit, so more examples may never settle it."
    needed = math.ceil(found.n * (half / distance) ** 2)
    return f"{resolved}; about {max(needed, found.n + 1):,} examples would settle a value like this one."


def _shown(value: float, unit: str) -> str:
    if unit == "B":
        for factor, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
    value += 0.0  # -0.0 is 0
    unit = "/s" if unit == "1/s" else unit
    digits = f"{value:,.0f}" if abs(value) >= 10_000 and math.isfinite(value) else f"{value:.4g}"
    return f"{digits} {unit}" if unit not in ("", "x", "%", "/s") else f"{digits}{unit}"
