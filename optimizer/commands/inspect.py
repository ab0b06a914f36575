"""optc inspect: a model, an artifact, a bundle, a recipe or a run record, taken apart and shown."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from optimizer.commands import console
from optimizer.errors import OptimizerError
from optimizer.inspection import Asked, look


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
    json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Show what a model, an artifact, a bundle, a recipe or a run record holds."""
    asked = Asked(_dims(dim or []), pairs(input or [], "--input", "image=float32[batch,3,224,224]"), weights, task)
    view = look(thing, asked)
    console(ctx).print(jsonlib.dumps(view.document, indent=1) if json else view.text)


def _dims(texts: list[str]) -> dict[str, int]:
    found = pairs(texts, "--dim", "batch=8")
    for name, size in found.items():
        if not size.isdigit() or int(size) < 1:
            raise OptimizerError(
                f"--dim {name}={size}: a size is a positive integer", "write for example --dim batch=8"
            )
    return {name: int(size) for name, size in found.items()}


def pairs(texts: list[str], option: str, example: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for text, (name, _, value) in zip(texts, pairs, strict=True):
        if not name or not value:
            raise OptimizerError(f"{option} {text}: cannot be read", f"write for example {option} '{example}'")
    return {name.strip(): value.strip() for name, _, value in pairs}
