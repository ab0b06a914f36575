"""A lazy sequence made of a length and a function: what most sources return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rows(Sequence[Mapping[str, Any]]):
    """`total` rows, each made by `row(index)` when it is asked for."""

    total: int
    row: Callable[[int], Mapping[str, Any]]

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.row(i) for i in range(*index.indices(self.total))]
        position = index + self.total if index < 0 else index
        if not 0 <= position < self.total:
            raise IndexError(f"row {index} of {self.total}")
        return self.row(position)
