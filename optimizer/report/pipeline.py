"""How each artifact came to be: the chain of a candidate, and every step with its options, cost and check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optimizer import console
from optimizer.report import trained
from optimizer.values import Candidate, Check, Run, StepRecord


@dataclass(frozen=True)
class Item:
    """A name and its value as text."""

    name: str
    value: str


@dataclass(frozen=True)
class StepView:
    """One step in words."""

    anchor: str
    key: str
    use: str
    format: str
    time: str
    size: str
    chosen: tuple[Item, ...]  # options that the recipe sets
    defaults: tuple[Item, ...]  # all others
    check: str
    outcome: str  # of the check: pass, fail, recorded or ""
    notes: tuple[Item, ...]
    warnings: tuple[str, ...]
    users: tuple[str, ...]  # candidates


@dataclass(frozen=True)
class ChainView:
    """The steps of one candidate, source first."""

    candidate: Candidate
    colour: int
    steps: tuple[StepView, ...]


def steps(run: Run) -> list[StepView]:
    """Every step of the run, in its order."""
    return [_step(run, record) for record in run.steps]


def chains(run: Run, views: Iterable[StepView]) -> list[ChainView]:
    """The chain of every candidate that was built."""
    by = {view.key: view for view in views}
    targets = list(dict.fromkeys(c.target for c in run.candidates))
    return [
        ChainView(c, targets.index(c.target), tuple(by[key] for key in c.steps if key in by))
        for c in run.candidates
        if c.skipped is None
    ]


def text(value: Any) -> str:
    """A JSON value as short text: strings bare, lists with commas, digests cut to 12 digits."""
    match value:
        case bool() | None:
            return json.dumps(value)
        case float():
            return f"{value:.6g}"
        case str():
            return value[:12] + "…" if len(value) == 64 and all(c in "0123456789abcdef" for c in value) else value
        case Mapping():
            return ", ".join(f"{k}: {text(v)}" for k, v in value.items()) or "none"
        case list() | tuple():
            return ", ".join(text(v) for v in value) or "none"
        case _:
            return str(value)


def described(check: Check) -> str:
    """A check in one line: the error and its limit, noise, cosine, and on what it was taken."""
    limit = f" (limit {check.limit:.1e})" if check.limit is not None else ""
    noise = f"SQNR {check.sqnr_db:.1f} dB" if check.sqnr_db is not None else "outputs identical"
    kind = "synthetic samples" if check.synthetic else "real samples"
    batches = ", ".join(str(b) for b in check.batches)
    parts = [f"largest error {check.max_error:.2e}{limit}", noise, f"cosine {check.cosine:.6f}"]
    parts.append(f"{kind}, batch {batches}" if batches else kind)
    return "; ".join(parts) + (f"; {check.reason}" if check.reason else "")


def _step(run: Run, record: StepRecord) -> StepView:
    chosen = _chosen(run, record)
    options = {name: text(value) for name, value in record.options.items()}
    return StepView(
        anchor=f"step-{record.key[:16]}",
        key=record.key,
        use=record.use,
        format=record.format,
        time="reused" if record.cached or record.seconds is None else console.duration(record.seconds),
        size=console.size(record.size),
        chosen=tuple(Item(n, v) for n, v in options.items() if n in chosen),
        defaults=tuple(Item(n, v) for n, v in options.items() if n not in chosen),
        check=described(record.check) if record.check else "",
        outcome=record.check.outcome if record.check else "",
        notes=tuple(Item(n.replace("_", " "), text(v)) for n, v in record.notes.items() if n != trained.NOTE),
        warnings=record.warnings,
        users=tuple(c.name for c in run.candidates if record.key in c.steps),
    )


def _chosen(run: Run, record: StepRecord) -> set[str]:
    """The options that the recipe sets for this step, read from the recipe that the run holds."""
    places = [(c.variant, c.target) for c in run.candidates if record.key in c.steps]
    written = [use for place in dict.fromkeys(places) for use in written_steps(run.recipe, *place)]
    written += run.recipe.get("targets", [])
    uses = [_mapping(use) for use in written]
    named = [_mapping(use.get("options")) for use in uses if use.get("name") == record.use]
    if record.use == "export":
        named.append(_mapping(run.recipe.get("export")))
    return {name for options in named for name in options}


def written_steps(recipe: dict[str, Any], variant: str, target: str) -> list[Any]:
    """The steps of a variant on a target as the recipe of a run writes them."""
    found = _mapping(recipe.get("variants")).get(variant)
    own = found.get(target) if isinstance(found, dict) else found
    steps = own.get("steps") if isinstance(own, dict) else own
    return steps if isinstance(steps, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
