"""optc cache: the artifact store, seen and kept small."""

from __future__ import annotations

import json as jsonlib
import re
import time
from pathlib import Path
from typing import Annotated

import typer

from optimizer.commands import console
from optimizer.console import size, table
from optimizer.errors import EXIT_USAGE, OptimizerError
from optimizer.store import Store, StoredEntry

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
Root = Annotated[Path | None, typer.Option("--store", help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@app.callback()
def cache() -> None:
    """Look at the artifact store, shrink it, check it, empty it."""


@app.command("list")
def list_(ctx: typer.Context, store: Root = None, json: Json = False) -> None:
    """List every stored artifact, most recently used first."""
    screen, found = console(ctx), Store.open(store, console(ctx).warn)
    entries = found.entries()
    total, unfinished = sum(entry.size for entry in entries), found.unfinished()
    if json:
        document = {
            "root": str(found.root),
            "bytes": total,
            "entries": [_document(e) for e in entries],
            "unfinished": unfinished,
        }
        screen.print(jsonlib.dumps(document, indent=1))
        return
    rows = [[e.key[:12], e.use, e.format, size(e.size), _day(e.created), _day(e.used)] for e in entries]
    if rows:
        screen.print(table(rows, ["key", "made by", "format", "size", "made", "used"], right=[3]))
    screen.print(f"{len(entries)} entries, {size(total)} in {found.root}")
    if unfinished:
        kept = f"{size(sum(unfinished.values()))}, which the next build goes on with"
        screen.print(f"{len(unfinished)} unfinished steps ({', '.join(key[:12] for key in unfinished)}) keep {kept}")


@app.command()
def trim(
    ctx: typer.Context,
    max_size: Annotated[str, typer.Option("--max-size", help="bytes to keep at most, e.g. 2GB or 500MB")],
    store: Root = None,
    json: Json = False,
) -> None:
    """Remove the least recently used artifacts until the rest fits."""
    limit = parse_size(max_size)
    screen, found = console(ctx), Store.open(store, console(ctx).warn)
    removed = found.trim(limit)
    if json:
        screen.print(jsonlib.dumps({"removed": [_document(e) for e in removed]}, indent=1))
    else:
        screen.print(f"removed {len(removed)} entries, {size(sum(e.size for e in removed))}")


@app.command()
def verify(ctx: typer.Context, store: Root = None, json: Json = False) -> None:
    """Read every byte of every artifact; remove the damaged ones and exit 2 when there were any."""
    screen, found = console(ctx), Store.open(store, console(ctx).warn)
    damaged = found.verify()
    intact = len(found.entries())
    if json:
        screen.print(jsonlib.dumps({"intact": intact, "damaged": dict(damaged)}, indent=1))
    else:
        for key, reason in damaged:
            screen.warn(f"{key[:12]} was damaged and is removed: {reason}")
        screen.print(f"{intact} entries are whole, {len(damaged)} were damaged")
    if damaged:
        raise typer.Exit(EXIT_USAGE)


@app.command()
def clear(ctx: typer.Context, store: Root = None, json: Json = False) -> None:
    """Remove every artifact and what unfinished steps keep; the next build makes them again."""
    screen, found = console(ctx), Store.open(store, console(ctx).warn)
    freed = found.clear()
    screen.print(jsonlib.dumps({"freed": freed}) if json else f"freed {size(freed)} in {found.root}")


def parse_size(text: str) -> int:
    """`2GB`, `500 MB`, `1.5GiB`, `1000` -> bytes; raises OptimizerError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if not found or found[2] not in UNITS:
        raise OptimizerError(f"'{text}' is no size", "write for example 2GB, 500MB or 1.5GiB")
    return int(float(found[1]) * UNITS[found[2]])


def _document(entry: StoredEntry) -> dict[str, object]:
    return {
        "key": entry.key,
        "use": entry.use,
        "format": entry.format,
        "size": entry.size,
        "created": entry.created,
        "used": entry.used,
        "path": str(entry.path),
    }


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
