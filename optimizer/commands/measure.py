"""optc measure: bundles that were built where they cannot run, measured and judged where they can."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from optimizer import report, schema
from optimizer.commands import console, options, trials
from optimizer.console import table
from optimizer.store import Store
from optimizer.trial.pending import Asked, complete


def measure(
    ctx: typer.Context,
    bundles: Annotated[list[Path], typer.Argument(help="bundles of one build, the baseline's among them")],
    data: Annotated[
        str | None, typer.Option(help="evaluation data here: card/split or file [default: as the recipe names it]")
    ] = None,
    label: Annotated[str | None, typer.Option(help="label column, where the data does not say")] = None,
    out: Annotated[Path, typer.Option(help="folder for run.json, the report and the completed bundles")] = Path(
        "measured"
    ),
    inconclusive: Annotated[str | None, typer.Option(help="count inconclusive gates as: pass or fail")] = None,
    store: Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the run record as JSON")] = False,
) -> None:
    """Measure bundles that were built elsewhere, and judge their gates; exit 0 only when every gate passed."""
    counted_as = options.inconclusive(inconclusive)
    screen = console(ctx)
    artifacts = Store.open(store, screen.warn)
    with tempfile.TemporaryDirectory(prefix="optc-measure-") as folder, artifacts.in_use():
        found = complete(Asked(bundles, data, label, out / "bundles"), artifacts, Path(folder), screen)
    paths = report.record(out / "run.json", found.run)
    if json:
        screen.print(schema.dump_run(found.run).decode())
    else:
        rows, header, right = report.table(found.run)
        screen.print(table(rows, header, right))
        screen.print()
        trials.finish(screen, found.run, [], paths)
        for _, archive in found.bundles:
            screen.print(f"bundle   {archive}")
    raise typer.Exit(options.exit_code([v.outcome for v in found.run.verdicts], counted_as))
