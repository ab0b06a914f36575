"""Which node of a candidate is which node of its baseline: by name, else by position (operator types in order)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

How = Literal["name", "position"]


@dataclass(frozen=True)
class Operation:
    """A node as matching sees it; conversions (Q, DQ, FakeQuantize) are left out before."""

    name: str
    op: str
    outputs: tuple[str, ...]
    rank: int | None = None  # of the first output, where it is known


@dataclass(frozen=True)
class Match:
    """A node of the baseline and how it was found."""

    name: str
    how: How


def match(candidate: Sequence[Operation], baseline: Sequence[Operation]) -> dict[str, Match]:
    """Candidate node -> baseline node.

    Names are trusted where the types agree, and so are equal names of outputs; what is left is aligned between its
    matched neighbours, by the longest common subsequence of types and ranks in topological order.
    """
    found = _by_name(candidate, baseline)
    taken = {m.name for m in found.values()}
    rest = [op for op in candidate if op.name not in found]
    free = [op for op in baseline if op.name not in taken]
    for block in difflib.SequenceMatcher(None, _types(rest), _types(free), autojunk=False).get_matching_blocks():
        for i in range(block.size):
            found[rest[block.a + i].name] = Match(free[block.b + i].name, "position")
    return found


def _by_name(candidate: Sequence[Operation], baseline: Sequence[Operation]) -> dict[str, Match]:
    by_name = {op.name: op for op in baseline}
    by_output: Mapping[str, Operation] = {out: op for op in baseline for out in op.outputs}
    found: dict[str, Match] = {}
    for op in candidate:
        same = by_name.get(op.name) or next((by_output[o] for o in op.outputs if o in by_output), None)
        if same and same.op == op.op:
            found[op.name] = Match(same.name, "name")
    return found


def _types(ops: Sequence[Operation]) -> list[str]:
    return [f"{op.op}/{op.rank}" for op in ops]
