"""optc compare: two runs, or two bundles, or today's run against a stored baseline."""

from __future__ import annotations

import json as jsonlib
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from optimizer import report
from optimizer.commands import console, options
from optimizer.comparison import baselines, records, rules, views, write
from optimizer.comparison.values import Comparison
from optimizer.console import Console, table
from optimizer.errors import OptimizerError
from optimizer.store import Store
from optimizer.subjects import Asked
from optimizer.trial.bench import Flags
from optimizer.trial.compare import Work
from optimizer.trial.inputs import Wanted

Things = Annotated[
    list[str],
    typer.Argument(
        help="BEFORE AFTER: each a run.json, report folder, bundle or stored baseline (#variant@target for one "
        "candidate); with --rerun also model files as for optc bench. One thing with --baseline or --save-baseline"
    ),
]
Save = Annotated[
    str | None, typer.Option(help="keep the run under this name, in .optc/baselines/NAME.json here, and end")
]
Map = Annotated[
    list[str] | None, typer.Option("--map", help="old=new where variants or candidates were renamed (repeatable)")
]
Drops = Annotated[
    list[str] | None, typer.Option(help="of accuracy: 0.5pp, or 0.005 without unit (repeatable) [default: both]")
]
Tolerances = Annotated[
    list[str] | None,
    typer.Option(help="METRIC=VALUE, judges it: memory.peak=20%, load.time=25%, f1=0.01 (repeatable)"),
]
Across = Annotated[
    list[str] | None,
    typer.Option(help="compare nevertheless: machine, threads, boundary, data, batch, all (repeatable)"),
]
Rerun = Annotated[bool, typer.Option("--rerun", help="measure both anew here, interleaved in one session")]
Root = Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")]


def compare(
    ctx: typer.Context,
    things: Things,
    baseline: Annotated[str | None, typer.Option(help="compare with this stored baseline")] = None,
    save_baseline: Save = None,
    renamed: Map = None,
    max_slowdown: Annotated[str | None, typer.Option(help="of p50 and throughput [default: 5%]")] = None,
    max_drop: Drops = None,
    max_growth: Annotated[str | None, typer.Option(help="of the size [default: 1%]")] = None,
    tolerance: Tolerances = None,
    across: Across = None,
    inconclusive: Annotated[str | None, typer.Option(help="count inconclusive as: pass or fail")] = None,
    rerun: Rerun = False,
    batch: Annotated[list[int] | None, typer.Option(help="rerun: batch size (repeatable) [default: 1]")] = None,
    threads: Annotated[int | None, typer.Option(help="rerun: for both [default: as recorded, else 1]")] = None,
    seconds: Annotated[float | None, typer.Option(help="rerun: per artifact and batch size [default: 10]")] = None,
    restarts: Annotated[
        int | None, typer.Option(help="rerun: fresh processes [default: 4 and more, until decided]")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="rerun: wall time per pair and batch size, e.g. 30s")] = None,
    dim: Annotated[list[str] | None, typer.Option(help="rerun: size of a free dimension, sequence=128")] = None,
    input: Annotated[list[str] | None, typer.Option(help="rerun: inputs.npz, as for optc bench")] = None,
    data: Annotated[str | None, typer.Option(help="rerun: take inputs from data, card/split or file")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for compare.md, compare.xml and compare.json")] = None,
    store: Root = None,
    json: Annotated[bool, typer.Option("--json", help="print the comparison as JSON")] = False,
) -> None:
    """Compare two runs, bundles or a run with a stored baseline; exit 1 when something regressed."""
    screen, home = console(ctx), Path.cwd()
    if save_baseline is not None:
        _save(screen, things, save_baseline, home)
        return
    counted_as = options.inconclusive(inconclusive)
    limits = rules.rules(max_slowdown, max_drop or (), max_growth, tolerance or ())
    file, inputs = options.inputs(input or [])
    wanted = Wanted(batch or [], options.dims(dim or []), file, data)
    flags = Flags(wanted, threads, seconds, restarts, options.seconds("--budget", budget))
    _only_with_rerun(rerun, flags)
    sides = _sides(things, baseline, home, rerun)
    with ExitStack() as stack:
        found_store = Store.open(store, screen.warn)
        stack.enter_context(found_store.in_use())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optc-compare-")))
        work = Work(screen, home, found_store, folder, limits, across or (), rules.mapping(renamed or []))
        asked = Asked((), threads, inputs, dims=wanted.dims)
        found = work.again(sides, flags, asked) if rerun else work.recorded(sides)
    report.append_summary(write.markdown(found))
    paths = write.write(found, out) if out else {}
    if json:
        screen.print(jsonlib.dumps(views.document(found), indent=1))
    else:
        _show(screen, found, paths)
    raise typer.Exit(options.exit_code([found.outcome], counted_as))


def _save(screen: Console, things: list[str], name: str, home: Path) -> None:
    if len(things) != 1:
        raise OptimizerError(f"--save-baseline keeps one run, {len(things)} were named", "name one run or bundle")
    known = name in baselines.names(home)
    found = records.read(things[0], home)
    path = baselines.save(name, found.run, home)
    screen.print(f"baseline {name}: {found.run.name}, {found.run.created}{' (replaced)' if known else ''}")
    screen.print(f"kept in  {path}")


def _sides(things: list[str], baseline: str | None, home: Path, rerun: bool) -> tuple[str, str]:
    """What is before and what is after."""
    named = [baseline, *things] if baseline is not None else things
    if len(named) != 2:
        raise OptimizerError(
            f"compare takes two things, BEFORE and AFTER; {len(named)} were named",
            "optc compare BEFORE AFTER, or optc compare --baseline NAME RUN",
        )
    if baseline is not None:
        baselines.load(baseline, home)
        named[0] = str(baselines.path_of(baseline, Path()))  # below the working folder, as `home` is
    models = [text for text in named if not records.is_record(text, home)]
    if models and not rerun and any(Path(m).expanduser().exists() or ":" in m for m in models):
        raise OptimizerError(f"'{models[0]}' is a model and holds no measurements", "measure both anew: --rerun")
    return named[0], named[1]


def _only_with_rerun(rerun: bool, flags: Flags) -> None:
    wanted = flags.wanted
    given = {
        "batch": wanted.batches, "threads": flags.threads, "seconds": flags.seconds, "restarts": flags.restarts,
        "budget": flags.budget, "dim": wanted.dims, "input": wanted.file, "data": wanted.data,
    }  # fmt: skip
    told = [name for name, value in given.items() if value not in (None, [], {})]
    if told and not rerun:
        raise OptimizerError(
            f"--{told[0]} says how to measure, and records are only read", "add --rerun, or leave it out"
        )


def _show(screen: Console, found: Comparison, paths: dict[str, Path]) -> None:
    screen.print(table(views.rows(found, screen.level > 1), views.HEADER, views.RIGHT))
    hidden = views.hidden(found)
    if hidden and screen.level < 2:
        screen.print(f"{hidden} more are reported only and did not move: -v shows them")
    screen.print()
    for kind, what in views.explained(found):
        screen.print(f"{kind}: {what}")
    for note in found.notes:
        screen.print(note)
    colour = {"pass": "green", "fail": "red", "inconclusive": "yellow"}[found.outcome]
    word, colon, rest = found.sentence.partition(":")
    screen.print(f"{screen.style(word, colour)}{colon}{rest}")
    for name, path in paths.items():
        screen.print(f"{name:8} {path}")
