"""Which nodes of a graph the user means: `conv1`, `encoder.*`, `/layer[0-3]/`, `op:Softmax`."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optimizer.errors import OptimizerError


@dataclass(frozen=True)
class Node:
    """A node as selectors see it: its name, other names it goes by, and the operator types it answers to."""

    name: str
    ops: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def select(selectors: Sequence[str], nodes: Sequence[Node], where: str) -> set[str]:
    """The names of all nodes that a selector matches.

    A selector is a node name with `*` and `?`, a regular expression between slashes (searched for in the name),
    or `op:` and an operator type. Raises OptimizerError for one that matches nothing, with the nearest names.
    """
    found: set[str] = set()
    for selector in selectors:
        matched = {node.name for node in nodes if _matches(selector, node, where)}
        if not matched:
            raise _nothing(selector, nodes, where)
        found |= matched
    return found


def _matches(selector: str, node: Node, where: str) -> bool:
    if selector.startswith("op:"):
        return selector[3:] in node.ops
    if len(selector) > 2 and selector.startswith("/") and selector.endswith("/"):
        pattern = _compiled(selector, where)
        return any(pattern.search(name) for name in node.names)
    return any(fnmatch.fnmatchcase(name, selector) for name in node.names)


def _compiled(selector: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(selector[1:-1])
    except re.error as error:
        raise OptimizerError(f"{where}: '{selector}' is no regular expression: {error}", "check its syntax") from None


def _nothing(selector: str, nodes: Sequence[Node], where: str) -> OptimizerError:
    if selector.startswith("op:"):
        known = sorted({op for node in nodes for op in node.ops})
        return OptimizerError(
            f"{where}: the selector '{selector}' matches nothing; operator types here: {', '.join(known)}",
            _hint([f"op:{op}" for op in _close(selector[3:], known)]),
        )
    names = [name for node in nodes for name in node.names]
    return OptimizerError(
        f"{where}: the selector '{selector}' matches none of {len(nodes)} nodes, such as {', '.join(names[:5])}",
        _hint(_close(selector.strip("/*"), names)),
    )


def _close(word: str, names: Iterable[str]) -> list[str]:
    choices = list(dict.fromkeys(names))
    return difflib.get_close_matches(word, choices, n=3, cutoff=0.4)


def _hint(close: Sequence[str]) -> str:
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}? optc inspect lists all nodes"
    return "optc inspect lists all nodes; write a name with * and ?, /a regular expression/, or op:Type"
