"""optc bench: latency of any artifacts side by side, without a recipe."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from optimizer import report, schema
from optimizer.commands import console, options, trials
from optimizer.console import Console, table
from optimizer.errors import EXIT_USAGE
from optimizer.store import Store
from optimizer.subjects import Asked, open_each
from optimizer.trial import views
from optimizer.trial.bench import Benched, Flags
from optimizer.trial.bench import bench as run_bench
from optimizer.trial.inputs import Wanted


def bench(
    ctx: typer.Context,
    artifacts: Annotated[
        list[str],
        typer.Argument(
            help="[name=]PATH[@target]: x.onnx, x.xml (OpenVINO), x.pt2, x.pt, file.py:Net, artifact folder or key, "
            "bundle, run.json or build folder (#variant@target for one of its candidates)"
        ),
    ],
    batch: Annotated[list[int] | None, typer.Option(help="batch size (repeatable) [default: 1]")] = None,
    threads: Annotated[int | None, typer.Option(help="for every runtime [default: as recorded, else 1]")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="most time of counted calls per artifact and batch size [default: 10]")
    ] = None,
    restarts: Annotated[
        int | None, typer.Option(help="fresh processes per artifact [default: 4 and more, until decided]")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="wall time per batch size for all, e.g. 30s")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="size of a free dimension, sequence=128 (repeatable)")] = None,
    input: Annotated[
        list[str] | None, typer.Option(help="inputs.npz; or name=dtype[dims] of a model that does not say it")
    ] = None,
    data: Annotated[str | None, typer.Option(help="take inputs from data: card/split or file")] = None,
    baseline: Annotated[str | None, typer.Option(help="what the others are compared with [default: the first]")] = None,
    target: Annotated[list[str] | None, typer.Option(help="run everything on this target (repeatable)")] = None,
    each: Annotated[bool, typer.Option("--each", help="models of other signatures too, each with its inputs")] = False,
    min_speedup: Annotated[str | None, typer.Option(help="fail below this speed-up of the median, e.g. 1.1x")] = None,
    inconclusive: Annotated[str | None, typer.Option(help="count an inconclusive speed-up as: pass or fail")] = None,
    weights: Annotated[Path | None, typer.Option(help="weights of file.py:Net")] = None,
    task: Annotated[str | None, typer.Option(help="Hugging Face task of a model folder")] = None,
    seed: Annotated[int, typer.Option(help="of made inputs and of the order of measuring")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for run.json and the report")] = None,
    store: Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the run record as JSON")] = False,
) -> None:
    """Measure any artifacts side by side, without a recipe: latency, throughput, load time, memory."""
    counted_as = options.inconclusive(inconclusive)
    file, inputs = options.inputs(input or [])
    wanted = Wanted(batch or [], options.dims(dim or []), file, data, seed)
    flags = Flags(wanted, threads, seconds, restarts, options.seconds("--budget", budget), baseline, min_speedup, each)
    asked = Asked(target or (), threads, inputs, weights, task, wanted.dims)
    screen = console(ctx)
    artifacts_store = Store.open(store, screen.warn)
    with tempfile.TemporaryDirectory(prefix="optc-bench-") as folder, artifacts_store.in_use():
        opened = list(open_each(artifacts, asked, artifacts_store, Path(folder), screen))
        found = run_bench(opened, flags, screen)
    paths = report.record(out / "run.json", found.run) if out else {}
    if json:
        screen.print(schema.dump_run(found.run).decode())
    else:
        _summary(screen, found, paths)
    code = options.exit_code([v.outcome for v in found.run.verdicts], counted_as)
    raise typer.Exit(EXIT_USAGE if found.failed else code)


def _summary(screen: Console, found: Benched, paths: dict[str, Path]) -> None:
    run = found.run
    rows, header, right = views.table(run)
    screen.print(table(rows, header, right))
    screen.print()
    for line in views.noise(run):
        screen.print(line)
    trials.finish(screen, run, list(found.failed), paths)
