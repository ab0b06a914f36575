"""optc list: what exists, where it comes from, its options, and why it cannot be used here."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import Annotated

import typer

from optimizer.commands import console
from optimizer.console import Console, table
from optimizer.errors import unknown
from optimizer.listing import SECTIONS, Item, items


def list_(
    ctx: typer.Context,
    section: Annotated[str | None, typer.Argument(help=f"{', '.join(SECTIONS)} [default: all]")] = None,
    options: Annotated[bool, typer.Option("--options", help="show the options of each entry")] = False,
    json: Annotated[bool, typer.Option("--json", help="print the list as JSON")] = False,
) -> None:
    """List recipes, passes, targets, sources, metrics, layouts, transforms and data cards."""
    if section is not None and section not in SECTIONS:
        raise unknown("section", section, SECTIONS)
    screen = console(ctx)
    found = {name: items(name) for name in SECTIONS if section in (None, name)}
    if json:
        screen.print(jsonlib.dumps({name: [asdict(item) for item in group] for name, group in found.items()}, indent=1))
        return
    for number, (name, group) in enumerate(found.items()):
        if number:
            screen.print()
        screen.print(screen.style(name, "bold"))
        width = max((len(item.name) for item in group), default=0) + 2
        for item in group:
            _show(screen, item, width, options or (section is not None and len(group) == 1))
        if not group:
            screen.print("  none")


def _show(screen: Console, item: Item, width: int, options: bool) -> None:
    origin = "" if item.origin == "built-in" else f"  [{item.origin}]"
    screen.print(f"  {item.name:<{width}}{item.summary}{origin}")
    if item.trouble:
        first = item.trouble.splitlines()[0]
        screen.print(f"  {'':<{width}}{screen.style('not usable here:', 'yellow')} {first}")
    if item.pending:
        screen.print(f"  {'':<{width}}{screen.style('builds here, does not run:', 'yellow')} {item.pending}")
    if options and item.options:
        rows = [[o.name, o.type, "required" if o.default is None else o.default, o.description] for o in item.options]
        for line in table(rows, ["option", "type", "default", "meaning"]).splitlines():
            screen.print(f"      {line}")
