"""optc verify: is a bundle whole, and does it run here as it did where it was measured?"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from optimizer.bundle import VerifyResult
from optimizer.bundle import verify as verify_bundle
from optimizer.commands import console
from optimizer.console import Console, duration, size


def verify(
    ctx: typer.Context,
    bundle: Annotated[Path, typer.Argument(help="a bundle's folder or its .tar.gz")],
    run: Annotated[bool, typer.Option("--run/--no-run", help="run the packed samples in the target's runtime")] = True,
    json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Check every byte of a bundle and run its samples; exit 2 with the reason when it must not be used."""
    screen = console(ctx)
    with screen.task(f"verify {bundle}") as advance:
        found = verify_bundle(bundle, run_samples=run, progress=advance)
    if json:
        screen.print(jsonlib.dumps(_document(found), indent=1))
    else:
        _show(screen, found)


def _show(screen: Console, found: VerifyResult) -> None:
    manifest, replayed = found.manifest, found.replayed
    count = len(manifest.files) + 1
    screen.print(f"bundle   {manifest.bundle}  ({manifest.candidate}, {manifest.created})")
    screen.print(f"digest   {manifest.digest}")
    screen.print(f"bytes    {count} files, {size(manifest.size)}: as packed  ({duration(found.seconds)})")
    if replayed:
        screen.print(
            f"samples  {replayed.count} run as {replayed.precision}: largest difference {replayed.max_error:.2g}, "
            f"tolerance {manifest.tolerance:g}  ({duration(replayed.seconds)})"
        )
    else:
        screen.print("samples  not run (--no-run)")
    for finding in found.findings:
        screen.warn(finding)
    screen.print(screen.style("verified", "green"))


def _document(found: VerifyResult) -> dict[str, Any]:
    manifest, replayed = found.manifest, found.replayed
    return {
        "bundle": manifest.bundle,
        "candidate": manifest.candidate,
        "digest": manifest.digest,
        "files": len(manifest.files) + 1,
        "bytes": manifest.size,
        "seconds": found.seconds,
        "samples": vars(replayed) if replayed else None,
        "tolerance": manifest.tolerance,
        "findings": list(found.findings),
    }
