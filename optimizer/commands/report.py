"""optc report: a run record seen again, as HTML, Markdown and JUnit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optimizer import report as reports
from optimizer.commands import console
from optimizer.console import table
from optimizer.inspection import read_run


def report(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(help="a run.json, or the folder that holds it")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder to write into [default: beside it]")] = None,
) -> None:
    """Write the report of a run record: HTML, Markdown and JUnit."""
    found, _ = read_run(run)
    written = reports.render(found, out or (run if run.is_dir() else run.parent))
    screen = console(ctx)
    rows, header, right = reports.table(found)
    screen.print(table(rows, header, right))
    screen.print(reports.verdict_sentence(found))
    for kind, place in written.items():
        screen.print(f"{kind:9} {place}")
