"""optc plan: what a build would do, step by step, and why each step is or is not in the store."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from optimizer import fingerprint, recipe, resolution, runtimes, schema, search
from optimizer.commands import console
from optimizer.console import Console, duration, table
from optimizer.formats import onnx as onnx_format
from optimizer.plan import Plan
from optimizer.plan import plan as make_plan
from optimizer.steps import Step
from optimizer.store import Store
from optimizer.values import Signature, waiting


def plan(
    ctx: typer.Context,
    reference: Annotated[str, typer.Argument(help="shipped recipe (vision/x) or recipe file (.yaml)")],
    store: Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Show every step of a build, which are in the store, and for the others what changed."""
    screen = console(ctx)
    found = recipe.load(reference)
    asked = search.find(found)
    planned = make_plan(search.start(asked) if asked else found)
    artifacts = Store.open(store, screen.warn)
    if runtimes.named_dims(found) and (signature := _signature(planned, artifacts)):
        runtimes.check_dims(found, signature)
    if json:
        document = _document(planned, artifacts) | ({"search": _searched(asked)} if asked else {})
        screen.print(jsonlib.dumps(document, indent=1))
    else:
        _show(screen, planned, artifacts)
        if asked:
            _show_search(screen, asked)


def _signature(planned: Plan, store: Store) -> Signature | None:
    """What the model takes, where no model code has to run to know it: of the stored model, or of its ONNX file."""
    entry, given = store.get(planned.steps[0].key), planned.recipe.model
    if entry:
        return schema.decode(Signature, entry.record["signature"])
    if given.inputs or given.file is None or given.file.suffix != ".onnx":
        return None  # inputs that the recipe states are checked by the plan
    return onnx_format.signature(onnx_format.parse(given.file))


def reason(planned: Plan, step: Step, store: Store) -> str:
    """`in the store`, or why the step has to run: what changed since this place was last built."""
    if store.get(step.key):
        return "in the store"
    last = store.last(planned.slot(step))
    if last is None:
        return "to build: never built here"
    found = fingerprint.changes(last, step.ingredients)
    own = [text for text in found if not text.startswith("source: ")]
    if own:
        return "to build: " + "; ".join(own)
    return "to build: its source changes" if found else "to build: no longer in the store"


def _show(screen: Console, planned: Plan, store: Store) -> None:
    why = {step.key: reason(planned, step, store) for step in planned.steps}
    rows = [[s.label, s.format, s.key[:12], why[s.key]] for s in planned.steps]
    screen.print(table(rows, ["step", "produces", "key", "state"]))
    screen.print()
    evaluations = {e.candidate: store.get(e.key) is not None for e in planned.evaluations}
    rows = [
        [
            c.name,
            c.skipped or f"{len(c.steps)} steps",
            "pending" if c.pending else _evaluation(evaluations.get(c.name)),
            planned.baselines[c.name] or "-",
        ]
        for c in planned.candidates
    ]
    screen.print(table(rows, ["candidate", "made by", "accuracy", "compared with"]))
    screen.print()
    for who, why_not in waiting(planned.candidates).items():
        screen.print(f"pending  {who}: {why_not}. It is built here, and measured by optc measure where it runs")
    hits = sum(text == "in the store" for text in why.values())
    screen.print(f"{len(why)} steps: {hits} in the store, {len(why) - hits} to build; gates: {len(planned.gates)}")
    told = {found.gate: found for found in resolution.foretell(planned, store)}
    for gate in planned.gates:
        screen.print(f"gate  {gate.text}" + (f"  [{told[gate.text]}]" if gate.text in told else ""))
    for found in told.values():
        if found.warning:
            screen.warn(found.warning)


def _show_search(screen: Console, asked: search.Asked) -> None:
    """The trials of a search in the order in which they are made, and what may follow around each."""
    screen.print()
    screen.print(
        f"search  '{asked.variant}': {asked.goal}, {duration(asked.spec.budget)}, times against {asked.yardstick}"
    )
    for place, (point, around) in enumerate(search.moves(asked), start=1):
        screen.print(f"try {place:>3}  {point.name}" + (f"  ({len(around)} changes may follow)" if around else ""))
        for other in around:
            screen.detail(f"  change  {other.name}")
    screen.print(
        f"after {search.FIRST}, in turns with changes of each target's best, of what is faster but breaks a gate, and "
        "of the best of another kind;"
    )
    screen.print(
        "where a gate on accuracy breaks, also with the most harmful layers left in float (-v lists the changes)"
    )


def _searched(asked: search.Asked) -> dict[str, Any]:
    return {
        "variant": asked.variant,
        "objective": asked.spec.objective,
        "at": {"batch": asked.batch, **asked.dims},
        "budget": asked.spec.budget,
        "yardstick": asked.yardstick,
        "trials": [
            {"name": p.name, "target": p.target, "variant": p.written(), "changes": [other.name for other in around]}
            for p, around in search.moves(asked)
        ],
    }


def _evaluation(stored: bool | None) -> str:
    return {None: "not measured", True: "in the store", False: "to measure"}[stored]


def _document(planned: Plan, store: Store) -> dict[str, Any]:
    return {
        "recipe": planned.recipe.name,
        "steps": [
            {
                "label": s.label,
                "use": s.use,
                "key": s.key,
                "source": s.source,
                "format": s.format,
                "options": s.options.model_dump(mode="json"),
                "ingredients": s.ingredients,
                "state": reason(planned, s, store),
            }
            for s in planned.steps
        ],
        "candidates": [
            {
                "name": c.name,
                "steps": list(c.steps),
                "skipped": c.skipped,
                "pending": c.pending,
                "baseline": planned.baselines[c.name],
            }
            for c in planned.candidates
        ],
        "data": {role: {"name": d.name, "digest": d.digest} for role, d in planned.data.items()},
        "gates": [gate.text for gate in planned.gates],
        "resolution": [{**asdict(r), "warning": r.warning} for r in resolution.foretell(planned, store)],
    }
