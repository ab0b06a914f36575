"""Recipe documents that move to another folder: their relative paths are rewritten, everything else stays as it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from optimizer import content


def relocated(document: dict[str, Any], folder: Path, base: Path | None = None) -> dict[str, Any]:
    """A document whose relative paths start at `base` (the working directory), rewritten to start at `folder`."""
    moved: dict[str, Any] = rebased(document, Path(os.path.relpath(base or Path.cwd(), folder)))
    return moved


def origin(base: Path, folder: Path) -> str:
    """The folder `base` as a record in `folder` names it: `recipes:vision` for a shipped one, else relative."""
    shipped = content.root("recipes")
    if base.resolve().is_relative_to(shipped):
        return SHIPPED + base.resolve().relative_to(shipped).as_posix()
    return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()


def located(name: str, folder: Path) -> Path:
    """The folder that a record in `folder` names; it may be gone."""
    if name.startswith(SHIPPED):
        return content.root("recipes") / name.removeprefix(SHIPPED)
    return (folder.resolve() / name).resolve()


SHIPPED = "recipes:"
PATH_KEYS = {"weights", "file", "hf", "path", "tokenizer"}
DATA_KEYS = {"calibrate", "evaluate", "select", "train", "ref"}  # a path only when spelt like one, else card/split
DATA_SUFFIXES = (".yaml", ".yml", ".npz", ".parquet", ".csv", ".tsv")


def rebased(value: Any, base: Path, key: str = "") -> Any:
    """A document whose relative paths started at `base`, rewritten to start at the folder that `base` is seen from."""
    if isinstance(value, dict):
        return {k: rebased(v, base, k) for k, v in value.items()}
    if isinstance(value, list):
        return [rebased(v, base, key) for v in value]
    if isinstance(value, str) and _is_local_path(value, key):
        return str(base / value)
    return value


def _is_local_path(value: str, key: str) -> bool:
    if value.startswith(("/", "~", "$", "python:")):
        return False
    if key == "entry":
        return value.rpartition(":")[0].endswith(".py")
    if key in DATA_KEYS:
        return value.partition("#")[0].endswith(DATA_SUFFIXES) or value.startswith(("./", "../")) or value.endswith("/")
    return key in PATH_KEYS
