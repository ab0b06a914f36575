"""Baselines by name: copies of run records below `.optc/baselines`, to compare later runs with."""

from __future__ import annotations

import re
from pathlib import Path

from optimizer import schema
from optimizer.disk import disk_errors, write_atomically
from optimizer.errors import OptimizerError, suggestion
from optimizer.values import Run

FOLDER = Path(".optc", "baselines")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")
NOT_NAMES = (".json", ".gz", ".tgz", ".onnx", ".xml", ".pt", ".pt2", ".pth", ".ts", ".torchscript", ".yaml", ".yml")


def is_name(text: str) -> bool:
    """Whether this can name a baseline: a plain word, with dots if need be, that ends like no file of ours."""
    return NAME.fullmatch(text) is not None and not text.endswith(NOT_NAMES)


def path_of(name: str, home: Path) -> Path:
    """The file of a baseline below the folder `home`."""
    return home / FOLDER / f"{name}.json"


def names(home: Path) -> list[str]:
    """All stored baselines."""
    return sorted(p.stem for p in (home / FOLDER).glob("*.json"))


def save(name: str, run: Run, home: Path) -> Path:
    """Keep the record under a name, whole or not at all; an older one of that name is replaced."""
    if not is_name(name):
        raise OptimizerError(
            f"--save-baseline {name}: is no name", "use letters, digits, '_', '-' and '.', such as main"
        )
    path = path_of(name, home)
    with disk_errors(home):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, schema.dump_run(run))
    return path


def load(name: str, home: Path) -> Run:
    """The record stored under a name; raises OptimizerError when there is none."""
    path = path_of(name, home)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        known = names(home)
        meant = suggestion(name, known)
        raise OptimizerError(
            f"'{name}' is no folder here and no baseline in {home / FOLDER}; stored: {', '.join(known) or 'none'}",
            f"did you mean '{meant}'?" if meant else f"optc compare --save-baseline {name} RUN stores one",
        ) from None
    return schema.load_run(data, str(path))
