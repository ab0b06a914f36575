"""What differs between two runs and may explain a change: tools, machine, recipe, steps; and verdicts that turned."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from optimizer import fingerprint
from optimizer.bundle.provenance import portable
from optimizer.comparison.likeness import machine_changes
from optimizer.comparison.values import Difference, Pair, Pairing
from optimizer.values import Run, StepRecord

MOST = 12
"""Changes of one recipe or step that are listed; more are counted."""
TRIALS = ("bench", "eval")
UNTOLD = ("source", "layout")  # ingredients that follow from an earlier step, or say nothing to a reader


def differences(before: Run, after: Run, pairing: Pairing) -> list[Difference]:
    """Everything that differs, the most telling first."""
    found = [Difference("verdict", text, name) for name, text in _verdicts(before, after, pairing)]
    if before.version != after.version:
        found.append(Difference("optc", f"optc {before.version} -> {after.version}"))
    same = kind_of(before) == kind_of(after)
    found += [Difference("tool", text) for text in _tools(before, after, same)]
    found += [Difference("machine", text) for text in machine_changes(before.machine, after.machine)]
    recipes = (_json(portable(run.recipe)) for run in (before, after))
    told = fingerprint.changes(*recipes) if same else [f"{kind_of(before)} -> {kind_of(after)}"]
    found += [Difference("recipe", text) for text in _few(told)]
    for pair in pairing.pairs:
        found += [Difference("step", text, pair.name) for text in _steps(before, after, pair)]
    return found


def kind_of(run: Run) -> str:
    """What made the record: `a build`, or the command whose flags stand where a build has its recipe."""
    only = next(iter(run.recipe), "")
    return f"optc {only}" if len(run.recipe) == 1 and only in TRIALS else "a build" if run.recipe else "a model file"


def _tools(before: Run, after: Run, same: bool) -> list[str]:
    """Versions that differ; of records of two kinds only those that both name."""
    names = (before.tools.keys() | after.tools.keys()) if same else (before.tools.keys() & after.tools.keys())
    one, other = ({n: run.tools[n] for n in names - {"optc"} if n in run.tools} for run in (before, after))
    return fingerprint.changes(one, other)


def _verdicts(before: Run, after: Run, pairing: Pairing) -> Iterator[tuple[str, str]]:
    old = {(v.subject, v.gate): v.outcome for v in before.verdicts}
    new = {(v.subject, v.gate): v for v in after.verdicts}
    for pair in pairing.pairs:
        for (subject, gate), outcome in old.items():
            now = new.get((pair.after.name, gate)) if subject == pair.before.name else None
            if now is not None and now.outcome != outcome:
                yield pair.name, f"gate '{gate}': {outcome} -> {now.outcome}: {now.reason}"


def _steps(before: Run, after: Run, pair: Pair) -> list[str]:
    """How the two chains differ; a step that differs only by what came before it is not told."""
    old, new = _chain(before, pair.before.steps), _chain(after, pair.after.steps)
    if [s.use for s in old] != [s.use for s in new]:
        return [f"{_uses(old)} -> {_uses(new)}"] if old and new else []
    found = []
    for one, other in zip(old, new, strict=True):
        if one.key != other.key:
            parts = (_json(_telling(s.ingredients)) for s in (one, other))
            found += [f"{one.use}: {text}" for text in fingerprint.changes(*parts)]
    return _few(found)


def _chain(run: Run, keys: tuple[str, ...]) -> list[StepRecord]:
    by = {step.key: step for step in run.steps}
    return [by[key] for key in keys if key in by]


def _telling(ingredients: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in ingredients.items() if k not in UNTOLD}


def _uses(steps: list[StepRecord]) -> str:
    return ", ".join(s.use for s in steps)


def _few(texts: list[str]) -> list[str]:
    rest = len(texts) - MOST
    return [*texts[:MOST], f"and {rest} more"] if rest > 0 else texts


def _json(value: Any) -> Any:
    return json.loads(json.dumps(value))
