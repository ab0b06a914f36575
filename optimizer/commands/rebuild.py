"""optc rebuild: a bundle's engine built again, for this machine or for other GPUs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from optimizer import bundle
from optimizer.bundle import renew
from optimizer.commands import console
from optimizer.errors import OptimizerError


def rebuild(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="a bundle's folder or its .tar.gz")],
    set: Annotated[
        list[str] | None, typer.Option(help="option of the target, e.g. capabilities=[8.9] (repeatable)")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the new bundle")] = Path("rebuilt"),
) -> None:
    """Build the engine of a bundle again from the ONNX model in it, for this machine or for other GPUs."""
    screen = console(ctx)
    changes = dict(map(_option, set or []))
    with tempfile.TemporaryDirectory(prefix="optc-rebuild-") as folder:
        with screen.task(f"verify {path}") as advance:
            checked, place = bundle.unpack(path, Path(folder), advance)
        with screen.task(f"{checked.manifest.candidate}: build"):
            _, archive = renew.rebuilt(place, checked.manifest, changes, out)
    screen.print(f"bundle   {archive}")
    screen.print(f"next     optc measure {archive}")


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise OptimizerError(f"--set {text}: no option with a value", "write --set NAME=VALUE, for example level=5")
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        raise OptimizerError(f"--set {text}: the value is no YAML", "write it as in a recipe") from None
    return name, [str(v) if isinstance(v, float) else v for v in found] if isinstance(found, list) else found
