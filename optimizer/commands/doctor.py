"""optc doctor: can this machine build, and what would make it able to?"""

from __future__ import annotations

import itertools
import json as jsonlib
from dataclasses import asdict
from typing import Annotated

import typer

from optimizer.commands import console
from optimizer.console import Console
from optimizer.doctor import Finding, examine, healthy
from optimizer.errors import EXIT_USAGE

COLOURS = {"ok": "green", "absent": "dim", "warning": "yellow", "problem": "red"}
TITLES = {
    "target": "targets",
    "provider": "providers of ONNX Runtime",
    "extra": "extras",
    "install": "installation",
    "plugin": "third-party plugins",
}


def doctor(
    ctx: typer.Context, json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False
) -> None:
    """Say which targets are usable here, why not, and what to install."""
    screen = console(ctx)
    findings = examine()
    fine = healthy(findings)
    if json:
        screen.print(jsonlib.dumps({"healthy": fine, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        _show(screen, findings, fine)
    if not fine:
        raise typer.Exit(EXIT_USAGE)


def _show(screen: Console, findings: list[Finding], fine: bool) -> None:
    width = max(len(f.name) for f in findings)
    for area, group in itertools.groupby(findings, key=lambda f: f.area):
        screen.print(screen.style(TITLES.get(area, area), "bold"))
        for found in group:
            level = screen.style(f"{found.level:<8}", COLOURS[found.level])
            screen.print(f"  {level} {found.name:<{width}}  {found.text}")
            if found.fix:
                screen.print(f"  {'':<8} {'':<{width}}  next: {found.fix}")
        screen.print()
    usable = sum(f.area == "target" and f.level == "ok" for f in findings)
    problems = sum(f.level == "problem" for f in findings)
    verdict = screen.style("ready", "green") if fine else screen.style("not ready", "red")
    screen.print(f"{verdict}: {usable} usable targets, {problems} problems")
