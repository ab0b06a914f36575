"""Are these two runs about the same thing? What differs that no interval knows of is refused unless it is told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from optimizer import fingerprint
from optimizer.comparison.values import Pairing
from optimizer.errors import OptimizerError
from optimizer.values import Machine, Measurement, Run

Kind = Literal["machine", "threads", "boundary", "data", "batch"]
ACROSS: tuple[str, ...] = ("machine", "threads", "boundary", "data", "batch", "all")
TIMING = "latency.p50"
COSTS = ("latency.", "throughput", "memory.", "load.", "cold.", "size")
"""Metrics that say what running costs begin like this; all others say how good the answers are."""


@dataclass(frozen=True)
class Unlike:
    """One thing that makes numbers of two runs incomparable."""

    kind: Kind
    sentence: str


def unlike(before: Run, after: Run, pairing: Pairing, timed: bool = True) -> list[Unlike]:
    """Everything that sets the two runs apart; without `timed`, only what concerns accuracy."""
    found = [*_data(before, after)]
    if not timed:
        return found
    found += _machine(before, after)
    for pair in pairing.pairs:
        old, new = _timings(before, pair.before.name), _timings(after, pair.after.name)
        if old and new:
            found += _setting("threads", pair.name, {_threads(m) for m in old}, {_threads(m) for m in new})
            found += _setting("boundary", pair.name, {_boundary(m) for m in old}, {_boundary(m) for m in new})
            found += _setting("batch", pair.name, {at_text(m.at) for m in old}, {at_text(m.at) for m in new})
    return found


def refuse(found: Collection[Unlike], across: Collection[str]) -> None:
    """Raise OptimizerError when the runs differ in a way that `across` does not allow."""
    for kind in across:
        if kind not in ACROSS:
            raise OptimizerError(f"--across {kind}: unknown; available: {', '.join(ACROSS)}", "name one of them")
    bad = [u for u in found if u.kind not in across and "all" not in across]
    if bad:
        kinds = dict.fromkeys(u.kind for u in bad)
        told = " ".join(f"--across {kind}" for kind in kinds)
        again = "" if list(kinds) == ["data"] else ", or measure both here in one session: --rerun"
        raise OptimizerError(
            "these are unlike things: " + "\n  ".join(dict.fromkeys(u.sentence for u in bad)),
            f"{told} compares them nevertheless{again}",
        )


def is_cost(metric: str) -> bool:
    """Whether a metric says what running costs."""
    return metric.startswith(COSTS)


def sizes(at: dict[str, Any]) -> dict[str, Any]:
    """A setting without its threads: batch and the sizes of the other free dimensions."""
    return {name: value for name, value in at.items() if name != "threads"}


def at_text(at: dict[str, Any]) -> str:
    """`batch 8, sequence 128`."""
    return ", ".join(f"{k} {v if isinstance(v, str | int | float) else json.dumps(v)}" for k, v in sizes(at).items())


def _machine(before: Run, after: Run) -> list[Unlike]:
    one, other = before.machine, after.machine
    if one.digest == other.digest:
        return []
    told = "; ".join(c for c in machine_changes(one, other) if not c.startswith("python")) or "no recorded fact differs"
    return [Unlike("machine", f"other machines: {one.digest} and {other.digest} ({told})")]


def machine_changes(before: Machine, after: Machine) -> list[str]:
    """The facts that differ, of those that both records state; a bundle states fewer than a run."""
    one, other = (json.loads(json.dumps(dataclasses.asdict(m))) for m in (before, after))
    stated = [name for name in one if name != "digest" and one[name] and other[name]]
    return fingerprint.changes({n: one[n] for n in stated}, {n: other[n] for n in stated})


def _data(before: Run, after: Run) -> list[Unlike]:
    if not all(any(not is_cost(m.metric) for m in run.measurements) for run in (before, after)):
        return []
    one, other = ([d for d in run.data if d.role == "evaluate"] for run in (before, after))
    if not one or not other or one[0].digest == other[0].digest:
        return []
    told = " and ".join(f"{d.name} ({d.examples} examples, digest {d.digest[:12]})" for d in (one[0], other[0]))
    return [Unlike("data", f"evaluated on other data: {told}")]


def _timings(run: Run, name: str) -> list[Measurement]:
    return [m for m in run.measurements if (m.subject, m.metric, m.relation) == (name, TIMING, "absolute")]


def _threads(m: Measurement) -> str:
    return str(m.at.get("threads", "not recorded"))


def _boundary(m: Measurement) -> str:
    return str(m.protocol.get("boundary", "not recorded"))


def _setting(kind: Kind, name: str, before: set[str], after: set[str]) -> list[Unlike]:
    if before == after:
        return []
    words = {"threads": "threads", "boundary": "what is timed", "batch": "settings"}
    return [Unlike(kind, f"{name}: {words[kind]}: {_all(before)} before, {_all(after)} after")]


def _all(values: set[str]) -> str:
    return "; ".join(sorted(values))
