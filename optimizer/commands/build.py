"""optc build: recipe or model -> artifacts, measurements, verdicts, report and bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml

from optimizer import execute, recipe, report, resolution, schema, search, shorthand
from optimizer.commands import console, options, trials
from optimizer.console import Console, duration, table
from optimizer.disk import require_folder, write_atomically
from optimizer.errors import OptimizerError
from optimizer.plan import Plan, plan
from optimizer.relocation import origin, relocated
from optimizer.store import Store
from optimizer.values import Run, waiting

Reference = Annotated[
    str, typer.Argument(help="shipped recipe (vision/x), recipe file (.yaml), or model (file.py:Net, x.onnx, x.pt2)")
]


def build(
    ctx: typer.Context,
    reference: Reference,
    out: Annotated[Path | None, typer.Option(help="folder for report and bundles [default: build/NAME]")] = None,
    store: Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")] = None,
    measure: Annotated[bool, typer.Option("--measure/--no-measure", help="measure and judge the gates")] = True,
    variant: Annotated[
        list[str] | None, typer.Option(help="build only this variant (repeatable; baseline kept)")
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="build for this target instead (repeatable)")] = None,
    gate: Annotated[list[str] | None, typer.Option(help="add a gate, e.g. 'top1 drop <= 0.5pp' (repeatable)")] = None,
    bundle: Annotated[str | None, typer.Option(help="best, all or none [default: the recipe's]")] = None,
    allow_failed: Annotated[bool, typer.Option(help="bundle even what failed a gate; the manifest says so")] = False,
    inconclusive: Annotated[str | None, typer.Option(help="count inconclusive gates as: pass or fail")] = None,
    budget: Annotated[
        str | None, typer.Option(help="auto: time for the search, e.g. 20m [default: the recipe's]")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print the run record as JSON")] = False,
    weights: Annotated[str | None, typer.Option(help="model: weights file")] = None,
    task: Annotated[str | None, typer.Option(help="model: Hugging Face task of a model directory")] = None,
    input: Annotated[list[str] | None, typer.Option(help="model: name=dtype[dims] (repeatable)")] = None,
    data: Annotated[str | None, typer.Option(help="model: calibration data, card/split or file")] = None,
    evaluate: Annotated[str | None, typer.Option(help="model: evaluation data [default: --data]")] = None,
    label: Annotated[str | None, typer.Option(help="model: label column of the data")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="model: metric (repeatable) [default: top1 with a label]")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="model: fp16, bf16, int8, int8-fp16, int8-dynamic, int8-weights, fp8, int4 (repeatable)"),
    ] = None,
    max_drop: Annotated[str | None, typer.Option(help="model: largest drop of the metric, e.g. 0.5pp")] = None,
    min_speedup: Annotated[str | None, typer.Option(help="model: smallest speed-up of the median, e.g. 1.5x")] = None,
    save: Annotated[Path | None, typer.Option(help="model: also write the recipe that the flags stand for")] = None,
) -> None:
    """Build a recipe, or a model with flags; exit 0 only when every gate passed."""
    counted_as = options.inconclusive(inconclusive)
    screen = console(ctx)
    flags = shorthand.Flags(
        reference, weights, task, input or (), data, evaluate, label, metric or (), target or (), precision or (),
        max_drop, min_speedup,
    )  # fmt: skip
    found = shorthand.adjusted(_recipe(flags, save, variant or []), gate or [], bundle)
    artifacts = Store.open(store, screen.warn)
    folder = require_folder(out or Path("build") / found.name)  # before the work
    asked = _asked(found, budget, measure)
    with artifacts.in_use():
        searched = search.search(asked, artifacts, screen, folder) if asked else None
        planned = plan(searched.recipe if searched else found)
        if measure:
            _foretell(screen, planned, artifacts)
        done = _recorded(execute.execute(planned, artifacts, screen, measure), origin(found.base, folder), searched)
        paths = report.record(folder / "run.json", done.run)
        bundles = execute.pack(done, folder / "bundles", allow_failed) if measure else []
    if json:
        screen.print(schema.dump_run(done.run).decode())
    else:
        _summary(screen, planned, done.run, paths, bundles)
    outcomes = [*(v.outcome for v in done.run.verdicts), *(["fail"] if searched and searched.gap else [])]
    raise typer.Exit(options.exit_code(outcomes, counted_as))


def _recorded(done: execute.Executed, base: str, searched: search.Searched | None) -> execute.Executed:
    """The build with where its recipe is, the trials of the search that led to it, and what nothing met, if so."""
    trials = searched.trials if searched else ()
    notes = (searched.gap,) if searched and searched.gap else ()
    run = replace(done.run, origin=base, trials=trials, warnings=(*done.run.warnings, *notes))
    return replace(done, run=run)


def _asked(found: recipe.Recipe, budget: str | None, measure: bool) -> search.Asked | None:
    """The search of the recipe, refused where flags contradict it."""
    seconds = options.seconds("--budget", budget)
    asked = search.find(found, seconds)
    if asked and not measure:
        raise OptimizerError("--no-measure: a search measures", "build what it found: optc build build/NAME/best.yaml")
    if budget and not asked:
        raise OptimizerError(
            f"--budget {budget} is for a search, '{found.name}' has none", "write a variant as [auto], or leave it out"
        )
    return asked


def _foretell(screen: Console, planned: Plan, store: Store) -> None:
    """What the data can resolve, before it is measured."""
    for found in resolution.foretell(planned, store):
        screen.info(f"gate '{found.gate}': {found}")
        if found.warning:
            screen.warn(found.warning)


def _recipe(flags: shorthand.Flags, save: Path | None, variants: list[str]) -> recipe.Recipe:
    if not shorthand.is_model(flags.model):
        found = recipe.load(flags.model)
        given = [n for n in ("weights", "hf_task", "data", "label", "max_drop", "min_speedup") if getattr(flags, n)]
        if given:
            flag = given[0].removeprefix("hf_").replace("_", "-")
            raise OptimizerError(
                f"--{flag} describes a model, '{flags.model}' is a recipe",
                "change the recipe, or extend it in a file of your own (extends: ...)",
            )
        return shorthand.narrowed(found, variants, flags.targets)
    document = shorthand.document(flags)
    found = recipe.parse(document, flags.model, Path.cwd(), _name(flags.model))
    if save:
        text = yaml.safe_dump(relocated(document, save.resolve().parent), sort_keys=False)
        write_atomically(save, text.encode())
    return found


def _name(model: str) -> str:
    return Path(model.rpartition(":")[0] or model).stem


def _summary(
    screen: Console, planned: Plan, run: Run, paths: dict[str, Path], bundles: list[tuple[Path, Path]]
) -> None:
    rows, header, right = report.table(run)
    screen.print(table(rows, header, right))
    screen.print()
    for candidate in run.candidates:
        if candidate.skipped:
            screen.print(f"skipped  {candidate.name}: {candidate.skipped}")
    for who, reason in waiting(run.candidates).items():
        screen.print(f"pending  {who}: {reason}")
    for line in report.loads(run):
        screen.print(line)
    trials.verdicts(screen, run)
    if planned.gates and not run.verdicts:
        screen.print("gates not judged: --no-measure")
    screen.print(report.verdict_sentence(run))
    slice_line = report.worst_slice(run)
    if slice_line:
        screen.print(slice_line)
    reused = sum(step.cached for step in run.steps)
    screen.print(f"steps    {len(run.steps)} ({reused} reused)  {duration(run.seconds)}")
    for name, path in paths.items():
        screen.print(f"{name:8} {path}")
    for _, archive in bundles:
        screen.print(f"bundle   {archive}")
