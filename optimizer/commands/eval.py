"""optc eval: accuracy of any artifacts on one data set, without a recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from optimizer import report, schema
from optimizer.commands import console, options, trials
from optimizer.console import table
from optimizer.errors import EXIT_USAGE
from optimizer.store import Store
from optimizer.subjects import Asked, open_each
from optimizer.trial import views
from optimizer.trial.evaluate import Flags, evaluate


def eval_(
    ctx: typer.Context,
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help="[name=]PATH[@target]: x.onnx, x.xml (OpenVINO), x.pt2, x.pt, file.py:Net, artifact folder or key, "
            "bundle, run.json or build folder (#variant@target for one of its candidates)"
        ),
    ],
    data: Annotated[str, typer.Option(help="card/split, mine.yaml#split, or a data file")],
    label: Annotated[str | None, typer.Option(help="label column, where the data does not say")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="name or file.py:callable (repeatable) [default: top1 with a label]")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="what the others are compared with [default: the first]")] = None,
    max_drop: Annotated[str | None, typer.Option(help="fail beyond this drop of each metric, e.g. 0.5pp")] = None,
    inconclusive: Annotated[str | None, typer.Option(help="count an inconclusive drop as: pass or fail")] = None,
    batch: Annotated[int, typer.Option(help="batch size")] = 32,
    threads: Annotated[int | None, typer.Option(help="for every runtime [default: as recorded, else 1]")] = None,
    target: Annotated[list[str] | None, typer.Option(help="run everything on this target (repeatable)")] = None,
    input: Annotated[
        list[str] | None, typer.Option(help="name=dtype[dims] of a model that does not say it (repeatable)")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="weights of file.py:Net")] = None,
    task: Annotated[str | None, typer.Option(help="Hugging Face task of a model folder")] = None,
    seed: Annotated[int, typer.Option(help="of random subsets and of the bootstrap")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for run.json and the report")] = None,
    store: Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the run record as JSON")] = False,
) -> None:
    """Evaluate any artifacts on one data set, without a recipe: accuracy, and paired drops."""
    counted_as = options.inconclusive(inconclusive)
    inputs = options.written_inputs(input or [])
    flags = Flags(data, label, metric or (), baseline, max_drop, batch, seed)
    screen = console(ctx)
    artifacts_store = Store.open(store, screen.warn)
    with tempfile.TemporaryDirectory(prefix="optc-eval-") as folder, artifacts_store.in_use():
        asked = Asked(target or (), threads, inputs, weights, task)
        opened = list(open_each(artifacts, asked, artifacts_store, Path(folder), screen))
        found = evaluate(opened, flags, artifacts_store, screen)
    paths = report.record(out / "run.json", found.run) if out else {}
    if json:
        screen.print(schema.dump_run(found.run).decode())
    else:
        rows, header, right = views.accuracy(found.run)
        screen.print(table(rows, header, right))
        screen.print()
        trials.finish(screen, found.run, list(found.failed), paths)
    code = options.exit_code([v.outcome for v in found.run.verdicts], counted_as)
    raise typer.Exit(EXIT_USAGE if found.failed else code)
