"""optc init: a first recipe for a model, written by looking at it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from optimizer import starter
from optimizer.commands import console, options
from optimizer.disk import disk_errors, write_atomically
from optimizer.errors import OptimizerError


def init(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="file.py:Net, x.onnx, x.pt2, x.pt, or a Hugging Face model folder")],
    out: Annotated[Path, typer.Option("--out", "-o", help="the recipe to write")] = Path("recipe.yaml"),
    weights: Annotated[Path | None, typer.Option(help="weights of a model by entry")] = None,
    input: Annotated[list[str] | None, typer.Option(help="name=dtype[dims]; guessed where absent (repeatable)")] = None,
    task: Annotated[str | None, typer.Option(help="Hugging Face task of a model folder")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
) -> None:
    """Write a commented recipe by looking at a model."""
    if out.suffix not in (".yaml", ".yml"):
        raise OptimizerError(f"--out {out}: a recipe ends in .yaml", f"write --out {out.stem}.yaml")
    if out.exists() and not force:
        raise OptimizerError(f"{out} exists already", "choose another --out, or replace it with --force")
    found = starter.start(model, options.written_inputs(input or []), weights, task)
    text = starter.text(found, out)
    with disk_errors(out.absolute().parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    screen = console(ctx)
    if found.guessed:
        screen.warn(f"the inputs of {model} were guessed; check model.inputs in {out}")
    screen.print(f"wrote {out}; fill in its data, then: optc plan {shlex.quote(str(out))}")
