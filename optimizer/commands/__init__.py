"""The commands, one module each, imported only when called.

The command `name` is the function `name` of the module `optimizer.commands.name` (`name_` where `name` is a Python
built-in), or its Typer instance `app` where the command has commands of its own. `optimizer/cli.py` lists all names
with their help text, which is the first line of the function's docstring without its full stop. A command parses,
calls and prints:

    def plan(ctx: typer.Context, reference: Annotated[str, typer.Argument(help="...")]) -> None:
        console(ctx).print("...")

It raises OptimizerError for the user's mistakes and typer.Exit(code) to end with another code than 0; it catches
nothing, the error boundary is in `optimizer/cli.py`.
"""

from __future__ import annotations

import typer

from optimizer.console import Console


def console(ctx: typer.Context) -> Console:
    """The console that -q and -v have set up."""
    found = ctx.obj
    return found if isinstance(found, Console) else Console()
