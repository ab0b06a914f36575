"""Digests of values, files, directory trees and Python code: what keys are made of."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK = 1 << 20


def canonical(value: Any) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def of_value(value: Any) -> str:
    """sha256 (hex) of a JSON value in canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def of_file(path: Path) -> str:
    """sha256 (hex) of a file's bytes, read in 1 MiB chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_below(root: Path) -> Iterator[Path]:
    """Every regular file below `root` in a stable order, byte-code caches left out."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path


def of_tree(root: Path) -> str:
    """sha256 (hex) of a directory: relative names and contents of all files below it."""
    return of_value({path.relative_to(root).as_posix(): of_file(path) for path in files_below(root)})


def of_path(path: Path) -> str:
    """sha256 (hex) of a file, or of a directory tree."""
    return of_tree(path) if path.is_dir() else of_file(path)


def of_input(path: Path) -> str:
    """`of_path` of something that the user keeps: read again only when size or time of a file has changed."""
    files = [path] if path.is_file() else files_below(path)
    stats = [(str(file), file.stat()) for file in files]
    return _of_input_as_of(path, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


@functools.lru_cache(maxsize=256)
def _of_input_as_of(path: Path, stats: tuple[tuple[str, int, int], ...]) -> str:  # noqa: ARG001  # part of the cache's key
    return of_path(path)


def of_code(path: Path) -> str:
    """sha256 (hex) of a Python file and of every module beside it that it imports, transitively.

    Imports are read from the syntax tree, nothing is executed; installed packages are not followed.
    """
    return of_value({p.relative_to(path.parent).as_posix(): of_file(p) for p in code_closure(path)})


def code_closure(path: Path) -> list[Path]:
    """The Python file and the files below its folder that its imports reach, sorted."""
    root = path.parent
    seen: set[Path] = set()
    queue = [path]
    while queue:
        current = queue.pop()
        if current not in seen:
            seen.add(current)
            queue.extend(_local_imports(current, root))
    return sorted(seen)


def changes(old: Any, new: Any, place: str = "") -> list[str]:
    """The dotted places at which two JSON values differ, such as `options.samples: 300 -> 512`."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted({*old, *new}):
            below = f"{place}.{key}" if place else str(key)
            if key in old and key in new:
                found += changes(old[key], new[key], below)
            else:
                found.append(f"{below}: {_short(old.get(key, 'absent'))} -> {_short(new.get(key, 'absent'))}")
        return found
    return [] if canonical(old) == canonical(new) else [f"{place}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else canonical(value)
    if re.fullmatch(r"(\w+:)?[0-9a-f]{32,}", text):
        return text.partition(":")[2][:8] or text[:8]
    return text if len(text) <= 40 else text[:37] + "..."


def _local_imports(path: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _module_files(root, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = path.parents[node.level - 1] if node.level else root
            parts = node.module.split(".") if node.module else []
            yield from _module_files(base, parts)
            for alias in node.names:
                yield from _module_files(base, [*parts, alias.name])


def _module_files(root: Path, parts: list[str]) -> Iterator[Path]:
    folder = root
    for part in parts[:-1]:
        folder = folder / part
        if (folder / "__init__.py").is_file():
            yield folder / "__init__.py"
    if parts:
        for candidate in (folder / f"{parts[-1]}.py", folder / parts[-1] / "__init__.py"):
            if candidate.is_file():
                yield candidate
