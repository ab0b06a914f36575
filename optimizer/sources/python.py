"""Examples from a function in user code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import Field

from optimizer import usercode
from optimizer.errors import OptimizerError
from optimizer.protocols import Example
from optimizer.rows import Rows
from optimizer.schema import Entry, File, Strict


class Options(Strict):
    entry: Entry = Field(description="file.py:callable or pkg.module:callable, returning examples")
    args: dict[str, Any] = Field({}, description="keyword arguments for the callable")
    files: list[File] = Field([], description="files that the callable reads, so that keys follow their content")


def open(options: Options) -> Sequence[Example]:
    """What the callable returns: a sequence of mappings is read lazily, any other iterable is listed first."""
    entry = options.entry
    found = usercode.load(entry)(**options.args)
    if isinstance(found, str | bytes | Mapping) or not (_lazy(found) or isinstance(found, Iterable)):
        raise OptimizerError(
            f"{entry} returned {type(found).__name__}, not a sequence of examples",
            "return a list or a sequence of mappings: column name -> value",
        )
    rows: Any = found if _lazy(found) else usercode.run(entry, lambda: list(found))
    return Rows(len(rows), lambda i: _example(usercode.run(entry, lambda: rows[i]), i, entry))


def _lazy(found: Any) -> bool:
    return hasattr(found, "__len__") and hasattr(found, "__getitem__")


def _example(value: Any, index: int, entry: str) -> Example:
    if isinstance(value, Mapping):
        return value
    raise OptimizerError(
        f"{entry}: example {index} is a {type(value).__name__}, not a mapping",
        "yield mappings such as {'image': array, 'label': 3}",
    )
