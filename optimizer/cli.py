"""The command line: commands by name, the one error boundary, exit codes.

Nothing but typer is imported until a command is called, so that `optc --help` stays fast.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from optimizer import __version__, interrupts
from optimizer.commands import console
from optimizer.console import Console
from optimizer.disk import DISK_FULL, NOT_WRITABLE
from optimizer.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USAGE, OptimizerError, suggestion

COMMANDS = {
    "build": "Build a recipe, or a model with flags; exit 0 only when every gate passed",
    "plan": "Show every step of a build, which are in the store, and for the others what changed",
    "bench": "Measure any artifacts side by side, without a recipe: latency, throughput, load time, memory",
    "eval": "Evaluate any artifacts on one data set, without a recipe: accuracy, and paired drops",
    "compare": "Compare two runs, bundles or a run with a stored baseline; exit 1 when something regressed",
    "report": "Write the report of a run record: HTML, Markdown and JUnit",
    "verify": "Check every byte of a bundle and run its samples; exit 2 with the reason when it must not be used",
    "measure": "Measure bundles that were built elsewhere, and judge their gates; exit 0 only when every gate passed",
    "rebuild": "Build the engine of a bundle again from the ONNX model in it, for this machine or for other GPUs",
    "explain": "Explain why a candidate is slow or wrong, and what to write into the recipe next",
    "inspect": "Show what a model, an artifact, a bundle, a recipe or a run record holds",
    "init": "Write a commented recipe by looking at a model",
    "list": "List recipes, passes, targets, sources, metrics, layouts, transforms and data cards",
    "doctor": "Say which targets are usable here, why not, and what to install",
    "cache": "Look at the artifact store, shrink it, check it, empty it",
    "schema": "Print the JSON Schema of a document",
}
EXIT_BROKEN_PIPE = 141  # what a shell reports for a process that SIGPIPE ended
ENVIRONMENT = (*DISK_FULL, *NOT_WRITABLE, errno.ENOTDIR)


class CommandTable(TyperGroup):
    """The commands of `COMMANDS`: names and help without importing any, the real command when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, text in COMMANDS.items():
            self.add_command(TyperCommand(name, short_help=text, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the arguments begin with; -q and -v work before it and after it."""
        name = args[0]
        if name in COMMANDS:
            found = command(name)
            _share([p for p in self.params if p.name in ("quiet", "verbose")], found)
            return name, found, args[1:]
        if ctx.resilient_parsing or name.startswith("-"):
            return super().resolve_command(ctx, args)
        meant = suggestion(name, COMMANDS)
        raise OptimizerError(
            f"no command '{name}'; available: {', '.join(COMMANDS)}",
            f"did you mean 'optc {meant}'?" if meant else "optc --help says what each does",
        )

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a reader that went away ends it quietly."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise typer.Exit(EXIT_BROKEN_PIPE) from None


def command(name: str) -> Any:
    """The command of a name, its module imported (see optimizer/commands/__init__.py)."""
    module = importlib.import_module(f"optimizer.commands.{name}")
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(name)(getattr(module, name, None) or getattr(module, f"{name}_"))
    found = get_command(app)
    found.name = name
    return found


def _share(options: list[Any], target: Any) -> None:
    target.params.extend(options)
    for below in getattr(target, "commands", {}).values():
        _share(options, below)


def _quiet(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.obj = replace(console(ctx), level=0)


def _verbose(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.obj = replace(console(ctx), level=2)


def _version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        console(ctx).print(f"optc {__version__}")
        raise typer.Exit


def _options(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", callback=_quiet, expose_value=False, help="say only results and errors")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", callback=_verbose, expose_value=False, help="say more about each step")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, expose_value=False, is_eager=True, help="show the version, exit"),
    ] = False,
) -> None:
    """Compile a PyTorch model into measured, verified, deployable bundles."""


app = typer.Typer(cls=CommandTable, rich_markup_mode=None, no_args_is_help=True)
app.callback()(_options)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code. Every error of every command ends here.

    0 done, 1 a gate failed, 2 the user's mistake, 3 our bug, 4 inconclusive, 130 interrupted, 143 terminated.
    """
    screen = Console()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does: a name must not end a build
    try:
        with interrupts.heeded():
            code = int(get_command(app).main(arguments, prog_name="optc", standalone_mode=False) or 0)
            sys.stdout.flush()
    except OptimizerError as error:
        screen.error(error.message, error.hint)
        return EXIT_USAGE
    except typer.TyperException as error:
        return _usage(screen, error)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except SystemExit as error:
        code = int(error.code or 0)
    except BrokenPipeError:
        code = EXIT_BROKEN_PIPE
    except Exception as error:  # the one boundary: everything else is a bug, or a disk that refuses
        return _bug(screen, error, sys.argv[1:] if arguments is None else arguments)
    if code in (EXIT_INTERRUPTED, EXIT_TERMINATED):
        screen.error("interrupted" if code == EXIT_INTERRUPTED else "terminated")
    if code == EXIT_BROKEN_PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail again
    return code


def _usage(screen: Console, error: Any) -> int:
    """Say what is wrong with the arguments, and the next move."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "optc"
    message = error.format_message()
    possible = sorted(getattr(error, "possibilities", None) or ())
    if possible:
        screen.error(f"{path}: no such option: {error.option_name}", f"did you mean {' or '.join(possible)}?")
    elif message.startswith("Usage:"):
        screen.info(message)  # nothing was asked for
    else:
        message = f"{message[0].lower()}{message[1:]}".rstrip(".")
        screen.error(f"{path}: {message}", f"{path} --help shows the arguments and every option")
    return EXIT_USAGE


def _bug(screen: Console, error: Exception, arguments: list[str]) -> int:
    """Say that we failed and where the details are; a disk that refuses is the environment's fault, not ours."""
    if isinstance(error, OSError) and error.errno in ENVIRONMENT:
        place = f": {error.filename}" if error.filename else ""
        screen.error(f"{error.strerror}{place}", "make room there, or name a folder that can be written")
        return EXIT_USAGE
    told = f"{type(error).__name__}: {error}".splitlines()[0]
    screen.error(f"this is a bug in optc: {told}", f"report it with this file: {_log(error, arguments)}")
    return EXIT_BUG


def _log(error: Exception, arguments: list[str]) -> Path:
    """A file with the traceback, the arguments and all versions."""
    import importlib.metadata
    import platform
    import tempfile
    import time
    import traceback

    from optimizer.store import default_root

    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    lines = [
        f"optc {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"arguments: {arguments}",
        f"folder: {Path.cwd()}",
        "",
        *traceback.format_exception(error),
        *(f"{name} {versions[name]}" for name in sorted(versions, key=str.lower)),
    ]
    name = f"bug-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (default_root() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("\n".join(lines), encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return Path("(no folder is writable for it)")


if __name__ == "__main__":
    sys.exit(main())
