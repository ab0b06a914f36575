"""A comparison in words: its cells, its rows for the terminal, its JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from optimizer import __version__
from optimizer.comparison.changes import place, shown
from optimizer.comparison.rules import limit_of
from optimizer.comparison.values import Change, Comparison
from optimizer.report import numerals
from optimizer.report.text import flat
from optimizer.values import Measurement

SCHEMA = 1
UNMOVED = 0.01
"""Peak memory has no interval; a page more or less is nothing to look at."""
HEADER = ("candidate", "metric", "before", "after", "change", "allowed", "verdict")
RIGHT = (2, 3, 4, 5)
KINDS = {
    "across": "compared nevertheless",
    "verdict": "verdicts that turned",
    "optc": "optc",
    "tool": "tools",
    "machine": "machine",
    "recipe": "recipe",
    "step": "steps",
}


def amount(value: float | None, change: Change) -> str:
    """A value of a change with its unit, or `not measured`."""
    if value is None:
        return numerals.ABSENT
    if change.metric == "built":
        return "built" if value else "skipped"
    return numerals.quantity(
        Measurement(change.subject, change.metric, "absolute", value, None, None, 1, change.unit, change.better)
    )


def step(change: Change) -> str:
    """The change with its interval: `1.100x [1.091, 1.109]`, `0.10 pp [-0.28, 0.56]`."""
    if change.value is None:
        return ""
    if change.low is None or change.high is None or change.low == change.high:
        return shown(change.value, change)
    low, high = (shown(end, change).removesuffix(" pp").removesuffix("x") for end in (change.low, change.high))
    return f"{shown(change.value, change)} [{low}, {high}]"


def allowed(change: Change) -> str:
    """The tolerance: `<= 1.050x`, `>= 0.952x`, `<= 0.50 pp`."""
    if change.tolerance is None:
        return ""
    if change.relation == "drop":
        return f"<= {shown(change.tolerance, change)}"
    higher = change.better == "higher"
    return f"{'>=' if higher else '<='} {shown(limit_of(change.tolerance, higher), change)}"


def moved(change: Change) -> bool:
    """Whether the change is beyond doubt, for better or worse, or is to be looked at for another reason."""
    if change.outcome in ("fail", "inconclusive"):
        return True
    if change.value is None:
        return change.metric == "built"
    nothing = 1.0 if change.relation == "ratio" else 0.0
    if change.low is None or change.high is None:
        return abs(change.value - nothing) > (0.0 if change.metric == "size" else UNMOVED)
    return change.low > nothing or change.high < nothing


def row(change: Change) -> list[str]:
    """The cells of a change, in the order of `HEADER`."""
    return [
        flat(text)
        for text in (
            change.subject, f"{change.metric}{place(change)}", amount(change.before, change),
            amount(change.after, change), step(change), allowed(change), change.outcome,
        )
    ]  # fmt: skip


def rows(found: Comparison, everything: bool = False) -> list[list[str]]:
    """The judged changes, and of the others those that moved; or all."""
    return [row(c) for c in found.changes if everything or c.outcome != "reported" or moved(c)]


def hidden(found: Comparison) -> int:
    """How many changes `rows` leaves out."""
    return len(found.changes) - len(rows(found))


def explained(found: Comparison) -> list[tuple[str, str]]:
    """(kind in words, what differs) for everything that may explain the changes."""
    return [(KINDS[d.kind], f"{d.subject}: {d.what}" if d.subject else d.what) for d in found.differences]


def document(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON: candidates by name alone."""
    pairs = [{"before": p.before.name, "after": p.after.name} for p in found.pairing.pairs]
    alone = {"only_before": list(found.pairing.only_before), "only_after": list(found.pairing.only_after)}
    rest = {f.name: getattr(found, f.name) for f in dataclasses.fields(found) if f.name != "pairing"}
    plain = {name: _plain(value) for name, value in rest.items()}
    return {"what": "comparison", "schema": SCHEMA, "version": __version__, "pairs": pairs, **alone, **plain}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
