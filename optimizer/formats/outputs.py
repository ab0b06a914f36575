"""Nested model outputs as a flat list of named tensors."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optimizer.errors import OptimizerError


def flatten(value: Any, is_tensor: Callable[[Any], bool]) -> list[tuple[str, Any]]:
    """(name, tensor) pairs in a stable order; None is left out.

    A key, a field and an index become parts of a dotted name, as in `boxes.0`; a lone tensor is `output`, and a
    name that would start with an index gets `output_` before it. Raises OptimizerError for anything else.
    """
    return [(_name(path), leaf) for path, leaf in _leaves(value, (), is_tensor)]


def _leaves(
    value: Any, path: tuple[str, ...], is_tensor: Callable[[Any], bool]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if value is None:
        return
    if is_tensor(value):
        yield path, value
        return
    for part, inner in _parts(value, path):
        yield from _leaves(inner, (*path, part), is_tensor)


def _parts(value: Any, path: tuple[str, ...]) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), inner) for key, inner in value.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return [(str(index), inner) for index, inner in enumerate(value)]
    place = f"the output '{_name(path)}'" if path else "the output"
    raise OptimizerError(
        f"{place} of the model is of type {type(value).__name__}, which is no tensor",
        "return tensors, or tuples, lists, dicts and dataclasses of tensors",
    )


def _name(path: tuple[str, ...]) -> str:
    text = re.sub(r"\s+", "_", ".".join(path))
    return f"output_{text}" if text[:1].isdigit() else text or "output"
