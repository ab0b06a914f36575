"""optc explain: why a candidate is slow, why it is wrong, and what to write into the recipe next."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter

from optimizer import explain as explaining
from optimizer import report
from optimizer.commands import console, options
from optimizer.disk import disk_errors, write_atomically
from optimizer.errors import OptimizerError
from optimizer.explain import resolving
from optimizer.explain.text import text
from optimizer.inspection import read_run
from optimizer.store import Store
from optimizer.values import Explanation


def explain(
    ctx: typer.Context,
    thing: Annotated[str, typer.Argument(help="run.json or its folder, recipe, or model file (.onnx, .xml)")],
    candidate: Annotated[str | None, typer.Argument(help="VARIANT@TARGET of the run or recipe")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="only where the time goes")] = False,
    wrong: Annotated[bool, typer.Option("--wrong", help="only where the error comes from")] = False,
    against: Annotated[Path | None, typer.Option(help="model file: the float model to compare with")] = None,
    data: Annotated[str | None, typer.Option(help="model file: data to compare on, card/split or file")] = None,
    label: Annotated[str | None, typer.Option(help="model file: label column of the data")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="model file: task metric (repeatable)")] = None,
    samples: Annotated[int, typer.Option(min=1, help="samples for tensors and screening")] = 64,
    examples: Annotated[int, typer.Option(min=2, help="examples for the task metric")] = 500,
    budget: Annotated[str, typer.Option(help="time for finding harmful layers, e.g. 90s, 5m")] = "5m",
    batch: Annotated[int, typer.Option(min=1, help="batch size of the profile")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="threads [default: the candidate's]")] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(help="size of a free dimension in the profile [default: the recipe's] (repeatable)"),
    ] = None,
    store: Annotated[Path | None, typer.Option(help="artifact store [default: $OPTC_STORE, ~/.cache/optc]")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="also write the explanation as JSON here")] = None,
    json: Annotated[bool, typer.Option("--json", help="print the explanation as JSON")] = False,
) -> None:
    """Explain why a candidate is slow or wrong, and what to write into the recipe next."""
    screen = console(ctx)
    asked = explaining.Asked(
        slow or not wrong,
        wrong or not slow,
        samples,
        examples,
        options.seconds("--budget", budget),
        batch,
        options.dims(dim or []),
    )
    artifacts = Store.open(store, screen.warn)
    files = resolving.Files(Path(thing), against, data, label, metric or ())
    place = _run_file(thing)
    with tempfile.TemporaryDirectory(prefix="optc-") as folder, artifacts.in_use():
        if resolving.is_model(thing):
            subject = resolving.from_files(_whole(files, candidate, wrong), Path(folder), {})
        elif place:
            _no_model_flags(thing, files)
            subject = resolving.from_run(read_run(place)[0], place, candidate, artifacts)
        else:
            _no_model_flags(thing, files)
            subject = resolving.from_recipe(thing, candidate, artifacts, screen)
        found = explaining.explain(resolving.with_options(subject, threads, asked.dims), asked, artifacts, screen)
    document = TypeAdapter(Explanation).dump_json(found, indent=1).decode()
    if out:
        with disk_errors(out.absolute().parent):
            write_atomically(out, document.encode() + b"\n")
    screen.print(document if json else text(found))
    if place:
        written = _record(place, found)
        screen.info(f"stored in {' and '.join(map(str, written.values()))}")


def _run_file(thing: str) -> Path | None:
    """The run record that is meant, or None; a folder is one when it holds a run.json."""
    path = Path(thing).expanduser()
    if thing.endswith(".json"):
        return path
    if path.is_dir():
        return path / "run.json"
    return None


def _record(place: Path, found: Explanation) -> dict[str, Path]:
    """Put the explanation into the run record in place of an older one, and render its report again."""
    run, _ = read_run(place)  # again: the record may have changed while we were measuring
    others = tuple(e for e in run.explanations if e.subject != found.subject)
    changed = dataclasses.replace(run, explanations=(*others, found))
    return report.record(place, changed)


def _whole(files: resolving.Files, candidate: str | None, wrong: bool) -> resolving.Files:
    """The flags of a model file, checked against each other."""
    if candidate:
        raise OptimizerError(
            f"'{candidate}' has no meaning beside the model file {files.candidate}",
            "name the float model with --against",
        )
    if wrong and not (files.against and files.data):
        raise OptimizerError(
            f"--wrong compares {files.candidate} with a float model on data",
            "add --against BASELINE.onnx --data FILE",
        )
    return files


def _no_model_flags(thing: str, files: resolving.Files) -> None:
    given = [n for n in ("against", "data", "label", "metrics") if getattr(files, n)]
    if given:
        raise OptimizerError(
            f"--{given[0].removesuffix('s')} belongs to a model file; '{thing}' says this itself",
            "leave it out, or explain the model file",
        )
