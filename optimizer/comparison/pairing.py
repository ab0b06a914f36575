"""Which candidate of the later run is which of the earlier one."""

from __future__ import annotations

from collections.abc import Mapping

from optimizer.comparison.values import Pair, Pairing
from optimizer.errors import OptimizerError, unknown
from optimizer.values import Candidate, Run, on


def pair(before: Run, after: Run, renamed: Mapping[str, str]) -> Pairing:
    """Candidates by name, `renamed` (variant or variant@target, old to new) applied first.

    Where each run has one candidate and nothing is renamed, they belong together whatever they are called. Raises
    OptimizerError for a name that `renamed` invents, and when nothing belongs together.
    """
    _refuse_invented(renamed, before, after)
    new = {c.name: c for c in after.candidates}
    found = []
    for candidate in before.candidates:
        other = new.get(_renamed(candidate, renamed))
        if other is not None and not (candidate.skipped and other.skipped):
            found.append(Pair(candidate, other))
    if not found and len(before.candidates) == len(after.candidates) == 1:
        found = [Pair(before.candidates[0], after.candidates[0])]
    taken = {p.before.name for p in found}, {p.after.name for p in found}
    alone = [
        tuple(c.name for c in run.candidates if c.name not in names and not c.skipped)
        for run, names in zip((before, after), taken, strict=True)
    ]
    if not found:
        raise OptimizerError(
            f"nothing to compare: before there is {_listed(before)}, after there is {_listed(after)}",
            "say what belongs together: --map old=new (variant, or variant@target)",
        )
    return Pairing(tuple(found), *alone)


def _renamed(candidate: Candidate, renamed: Mapping[str, str]) -> str:
    new = renamed.get(candidate.name) or renamed.get(candidate.variant) or candidate.name
    return on(new, candidate.target)


def _refuse_invented(renamed: Mapping[str, str], before: Run, after: Run) -> None:
    for names, run, side in ((renamed.keys(), before, "before"), (renamed.values(), after, "after")):
        known = {n for c in run.candidates for n in (c.name, c.variant)}
        for name in names:
            if name not in known:
                raise unknown("candidate", name, known, f"the run {side} (--map)")


def _listed(run: Run) -> str:
    return ", ".join(c.name for c in run.candidates) or "no candidate"
