"""The answer of a run in one sentence, and the few facts that go with it."""

from __future__ import annotations

from dataclasses import dataclass

from optimizer.report import numerals
from optimizer.report.index import Index
from optimizer.report.text import flat
from optimizer.values import Candidate, Measurement, Run

WORDS = {"pass": "Passed", "fail": "Failed", "inconclusive": "Inconclusive", "not gated": "Not gated"}
WORST = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Fact:
    """A labelled number under the headline, and the candidate it belongs to."""

    label: str
    value: str
    note: str
    candidate: Candidate


def verdict_word(run: Run) -> str:
    """`Passed`, `Failed`, `Inconclusive` or `Not gated`."""
    return WORDS[run.outcome]


def verdict_sentence(run: Run) -> str:
    """The whole answer on one line: the word, how many checks hold, which do not, and what was skipped."""
    return flat(f"{verdict_word(run)}: {verdict_detail(run, named=True)}")


def verdict_detail(run: Run, named: bool = False) -> str:
    """The sentence after the word; with `named`, the first checks that do not hold by name."""
    skipped = sum(c.skipped is not None for c in run.candidates)
    tail = f" {numerals.count(skipped, 'candidate was', 'candidates were')} skipped." if skipped else ""
    waiting = sum(c.pending is not None for c in run.candidates)
    tail += (
        f" {numerals.count(waiting, 'candidate waits', 'candidates wait')} to be measured elsewhere." if waiting else ""
    )
    if run.verdicts:
        return _counted(run, named) + tail
    built = len(run.candidates) - skipped
    done = "built, nothing was timed or evaluated"
    if any(m.n > 1 for m in run.measurements):
        built, done = built - waiting, "measured"
    return f"{numerals.count(built, 'candidate was', 'candidates were')} {done}, no gate was judged.{tail}"


def _counted(run: Run, named: bool) -> str:
    total = len(run.verdicts)
    failed, undecided = _names(run, "fail"), _names(run, "inconclusive")
    if failed:
        text = f"{len(failed)} of {numerals.count(total, 'gate check')} failed{_listed(failed, named)}"
        return f"{text}, {len(undecided)} cannot be decided{_listed(undecided, named)}." if undecided else f"{text}."
    if undecided:
        return (
            f"{len(undecided)} of {numerals.count(total, 'gate check')} cannot be decided{_listed(undecided, named)}."
        )
    subjects = len({v.subject for v in run.verdicts})
    held = "the one gate check holds" if total == 1 else f"all {total} gate checks hold"
    return f"{held} for {numerals.count(subjects, 'candidate')}."


def _names(run: Run, outcome: str) -> list[str]:
    return [f"{v.subject}: {v.gate}" for v in run.verdicts if v.outcome == outcome]


def _listed(names: list[str], named: bool) -> str:
    more = f"; and {len(names) - 2} more" if len(names) > 2 else ""
    return f" ({'; '.join(names[:2])}{more})" if named else ""


def outcome_of(run: Run, candidate: Candidate) -> str | None:
    """The worst outcome of a candidate's gates, or None when no gate judged it."""
    own = {v.outcome for v in run.verdicts if v.subject == candidate.name}
    return next((o for o in WORST if o in own), None)


def facts(index: Index) -> list[Fact]:
    """The largest speed-up, where there is any, and the smallest size among the candidates that pass their gates.

    In a run without gates among all of them. What waits to be measured elsewhere is none of them.
    """
    run = index.run
    outcome = "pass" if run.verdicts else None
    able = [c for c in index.built() if not index.is_baseline(c) and not c.pending and outcome_of(run, c) == outcome]
    which = "that passes" if run.verdicts else "of all"
    found = []
    speeds = [(m, c) for c in able for s in index.settings if (m := index.get(c.name, "latency.p50", "speedup", s))]
    speeds = [(m, c) for m, c in speeds if m.value > 1]
    if speeds:
        m, c = max(speeds, key=lambda pair: pair[0].value)
        found.append(Fact(f"Largest speed-up {which}", numerals.quantity(m), _against(index, m), c))
    sizes = [(m, c) for c in able if (m := index.get(c.name, "size"))]
    if sizes:
        m, c = min(sizes, key=lambda pair: pair[0].value)
        ratio = index.get(c.name, "size", "ratio")
        note = f"{numerals.quantity(ratio)} of {ratio.against}" if ratio else ""
        found.append(Fact(f"Smallest {which}", numerals.quantity(m), note, c))
    return found


def _against(index: Index, m: Measurement) -> str:
    label = next((s.label for s in index.settings if index.get(m.subject, m.metric, m.relation, s) is m), "")
    parts = [numerals.interval(m), f"against {m.against}" if m.against else "", f"at {label}" if label else ""]
    return " ".join(p for p in parts if p)
