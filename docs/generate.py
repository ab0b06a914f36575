"""Writes docs/cli.md, docs/recipe.md and the generated blocks of README.md from the code and the published results.

    python docs/generate.py           write what is stale
    python docs/generate.py --check   write nothing, exit 1 when something is stale

A block of README.md begins with `<!-- generated:NAME -->` and ends with `<!-- /generated -->`. NAME is `headline`
(the figures of reports/published/headline.json), `results` (the tables of all published runs) or `results:RUN` (one).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from optimizer import cli, listing, recipe, report, schema, specs
from optimizer.gates import grammar
from optimizer.listing import Item, Option
from optimizer.values import Run

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- generated:([\w:.-]+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
NOTE = "<!-- Written by docs/generate.py: change the code, then run `make docs`. -->\n"
WIDTH = 100
MODELS = (
    (recipe.Recipe, "Recipe", "The document. `extends: NAME` (a shipped recipe, or a file that ends in .yaml) inherits"
     " another one: mappings merge key by key, everything else replaces."),
    (recipe.ModelSpec, "model", "Exactly one of `entry`, `file` and `hf`."),
    (recipe.DataSpec, "data, in full", "Under `calibrate`, `evaluate` and `train`; also what a data card holds, which"
     " adds `splits: {name: what differs}`."),
    (recipe.DataRef, "data, by reference", "Or just the text of `ref`."),
    (recipe.MeasureSpec, "measure", ""),
    (recipe.LatencySpec, "measure.latency", ""),
    (specs.OfflineSpec, "measure.offline", ""),
    (specs.ServerSpec, "measure.server", "`rate`, `bound`, or both."),
    (specs.SweepSpec, "measure.sweep", "For every candidate that would be bundled; what needs more cores is left out."),
)  # fmt: skip
SECTIONS = {
    "passes": "Steps of a variant. `load` and `export` are inserted by the planner.",
    "targets": "Under `targets`.",
    "sources": "Under `data.ROLE.source`.",
    "transforms": "Under `data.ROLE.transforms`, applied in order.",
    "metrics": "Under `measure.metrics`. `file.py:function` is short for `{python: {entry: file.py:function}}`.",
}


def cli_reference() -> str:
    """Every command with its help, as the command line prints it."""
    parts = ["# Command line\n", NOTE, *_command("optc", get_command(cli.app))]
    for name in cli.COMMANDS:
        parts += _command(f"optc {name}", cli.command(name))
    parts.append(
        "## Exit codes\n\n"
        "| code | meaning |\n|---|---|\n"
        "| 0 | done; of a build: every gate passed |\n"
        "| 1 | a gate failed |\n"
        "| 2 | the user's mistake, or something that is missing here |\n"
        "| 3 | a bug in optc; a log was written |\n"
        "| 4 | inconclusive: the data or the machine cannot support an answer |\n"
        "| 130 | interrupted (^C) |\n"
        "| 143 | terminated (SIGTERM) |\n"
    )
    return "\n".join(parts)


def _command(path: str, command: Any) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)
    yield f"{'#' * max(2, len(path.split()))} {path}\n\n```\n{command.get_help(context).strip()}\n```\n"
    if path != "optc":
        for name, below in getattr(command, "commands", {}).items():
            yield from _command(f"{path} {name}", below)


def recipe_reference() -> str:
    """Every key of a recipe and every option of every built-in plugin."""
    parts = ["# Recipes\n", NOTE, "A name that takes options is written `name`, or `{name: {option: value}}`.\n"]
    for model, title, text in MODELS:
        parts += [f"## {title}\n", f"{text}\n" if text else "", _options(listing.options(model))]
    for section, text in SECTIONS.items():
        parts += [f"## {section}\n", f"{text}\n"]
        for item in listing.items(section):  # type: ignore[arg-type]  # the keys of SECTIONS
            if item.origin == "built-in":
                parts.append(_item(item))
    parts += ["## gates\n", f"`{grammar.GRAMMAR}`\n"]
    parts += ["For example " + ", ".join(f"`{text}`" for text in grammar.EXAMPLES) + ".\n"]
    timed = ", ".join(f"`{name}`" for name in grammar.KNOWN)
    parts.append(
        f"A metric is one of the recipe's, or one of {timed}. Without a relation the value itself is judged; `drop` is "
        "what is lost against the baseline, `speedup` how many times faster, `ratio` how many times as much. A gate "
        "passes on the pessimistic end of the 95 % interval; it is inconclusive where the interval holds the "
        "threshold.\n"
    )
    return "\n".join(part for part in parts if part)


def _item(item: Item) -> str:
    return f"### {item.name}\n\n{item.summary}\n\n{_options(item.options)}"


def _options(options: tuple[Option, ...]) -> str:
    rows = [
        [f"`{o.name}`", o.type, "required" if o.default is None else f"`{o.default}`", o.description] for o in options
    ]
    return _markdown(["key", "type", "default", "meaning"], rows) if rows else "No options.\n"


def _markdown(header: list[str], rows: list[list[str]], right: tuple[int, ...] | list[int] = ()) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---:" if i in right else "---" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *cells]) + "\n"


def readme(text: str, published: Path) -> str:
    """README.md with every generated block written anew; raises ValueError for a block that cannot be made."""
    return BLOCK.sub(lambda found: found[1] + _block(found[2], published) + found[3], text)


def _block(name: str, published: Path) -> str:
    kind, _, wanted = name.partition(":")
    if kind == "headline":
        return _headline(published / "headline.json")
    if kind != "results":
        raise ValueError(f"README.md: no block is named '{name}'; there are headline, results and results:RUN")
    paths = sorted(p for p in published.glob("*.json") if p.name != "headline.json" and wanted in ("", p.stem))
    if not paths:
        raise ValueError(f"README.md: the block '{name}' needs a run record in {published}, and there is none")
    return "\n".join(_results(path) for path in paths)


def _headline(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"README.md: the block 'headline' needs {path}, which does not exist")
    rows = [
        [f"`{f['name']}`", _figure(f), str(f["n"]), str(f["machine"]), f"`{f['command']}`"]
        for f in json.loads(path.read_text(encoding="utf-8"))
    ]
    return _markdown(["figure", "value", "n", "machine", "measured by"], rows, right=(1, 2))


def _figure(figure: dict[str, Any]) -> str:
    unit = f" {figure['unit']}" if figure["unit"] else ""
    interval = "" if figure["low"] is None else f" [{figure['low']:.3g}, {figure['high']:.3g}]"
    return f"{figure['value']:.3g}{unit}{interval}"


def _results(path: Path) -> str:
    run = schema.load_run(path.read_bytes(), str(path))
    rows, header, right = report.table(run)
    built = [row for row in rows if not row[-1].startswith("skipped")]
    return f"**{run.name}**: {_setting(run)}.\n\n{_markdown(header, built, right)}"


def _setting(run: Run) -> str:
    machine = run.machine
    data = next((d for d in run.data if d.role == "evaluate"), None)
    examples = f"{data.examples:,} examples of {data.name}; " if data else ""
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    return f"{examples}{machine.cpu}, {cores}"


def readme_text() -> str:
    """README.md as it should be."""
    return readme((ROOT / "README.md").read_text(encoding="utf-8"), ROOT / "reports/published")


PAGES = {"docs/cli.md": cli_reference, "docs/recipe.md": recipe_reference, "README.md": readme_text}


def main(arguments: list[str]) -> int:
    """Write what is stale, or with --check say what is; 1 when something is stale or cannot be made."""
    check, faults = "--check" in arguments, 0
    for name, make in PAGES.items():
        path = ROOT / name
        try:
            text = make()
        except ValueError as error:
            sys.stderr.write(f"{error}\n")
            faults += 1
            continue
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        sys.stderr.write(f"{name} is stale: run `make docs`\n" if check else f"wrote {name}\n")
        faults += check
        if not check:
            path.write_text(text, encoding="utf-8")
    return min(faults, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
