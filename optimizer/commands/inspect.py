"""optc inspect: a model, an artifact, a bundle, a recipe or a run record, taken apart and shown."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from optimizer.commands import console, options
from optimizer.errors import EXIT_USAGE
from optimizer.inspection import Asked, look, preflight


def inspect(
    ctx: typer.Context,
    thing: Annotated[
        str,
        typer.Argument(
            help="model (x.onnx, x.pt2, x.pt, file.py:Net, folder), artifact folder or key, bundle, recipe or run.json"
        ),
    ],
    dim: Annotated[list[str] | None, typer.Option(help="size of a free dimension, e.g. batch=8 (repeatable)")] = None,
    input: Annotated[
        list[str] | None, typer.Option(help="input of a model by entry, name=dtype[dims] (repeatable)")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="weights of a model by entry")] = None,
    task: Annotated[str | None, typer.Option(help="Hugging Face task of a model folder")] = None,
    target: Annotated[
        str | None, typer.Option(help="say instead whether this target takes the model (.onnx), without building it")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Show what a model, an artifact, a bundle, a recipe or a run record holds."""
    asked = Asked(options.dims(dim or [], "batch=8"), options.written_inputs(input or []), weights, task)
    view = preflight(thing, target) if target else look(thing, asked)
    console(ctx).print(jsonlib.dumps(view.document, indent=1) if json else view.text)
    if view.refused:
        raise typer.Exit(EXIT_USAGE)
