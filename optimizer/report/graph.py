"""The steps of a run as a small directed graph: a column per step of depth, a row per candidate, shared steps once.

Coordinates are pixels of a drawing of its natural size; wide graphs scroll inside their frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optimizer.report.headline import outcome_of
from optimizer.report.pipeline import StepView
from optimizer.values import Candidate, Run

LANE, GAP = 54, 26  # height of a row, width between columns
LETTER, ROOM = 6.7, 20.0  # width of a letter of 13 px, and of what surrounds a label


@dataclass(frozen=True)
class Node:
    """One step, or at the right end one candidate."""

    x: float
    y: float  # of its middle
    width: float
    label: str
    note: str
    anchor: str  # "" for a candidate
    colour: int | None  # a candidate's target, or the only target that uses the step
    outcome: str = ""


@dataclass(frozen=True)
class Graph:
    """Boxes and the lines between them."""

    width: int
    height: int
    nodes: tuple[Node, ...]
    edges: tuple[str, ...]  # SVG paths
    described: str


def graph(run: Run, views: Sequence[StepView]) -> Graph | None:
    """The graph of every candidate that was built; None where the run records no steps."""
    by = {view.key: view for view in views}
    built = [c for c in run.candidates if c.skipped is None and any(key in by for key in c.steps)]
    if not built:
        return None
    links = _links(run, built, set(by))
    depth = _depths(links, [key for view in views if any((key := view.key) in c.steps for c in built)])
    lanes = {key: _mean([i for i, c in enumerate(built) if key in c.steps]) for key in depth}
    nodes = _placed(run, by, built, depth, _apart(depth, lanes))
    nodes |= _ends(run, nodes, built)
    ends = [(next(k for k in reversed(c.steps) if k in by), c.name) for c in built]
    edges = tuple(_edge(nodes[a], nodes[b]) for a, b in [*links, *ends])
    width = max(n.x + n.width for n in nodes.values())
    height = max(n.y for n in nodes.values()) + LANE / 2
    described = f"{len(depth)} steps lead to {len(built)} candidates; the list below names them in order"
    return Graph(round(width) + 2, round(height), tuple(nodes.values()), edges, described)


def _links(run: Run, built: Iterable[Candidate], known: set[str]) -> list[tuple[str, str]]:
    """Pairs of steps, source first: along the chains, and where a step records another source."""
    found = dict.fromkeys(
        (a, b) for c in built if (keys := [k for k in c.steps if k in known]) for a, b in itertools.pairwise(keys)
    )
    used = {key for c in built for key in c.steps}
    found |= dict.fromkeys((s, r.key) for r in run.steps for s in r.sources if r.key in used and s in used & known)
    return [pair for pair in found if pair[0] != pair[1]]


def _depths(links: Sequence[tuple[str, str]], keys: Sequence[str]) -> dict[str, int]:
    """The longest way to each step; a circle, which no plan makes, ends after as many rounds as there are steps."""
    depth = dict.fromkeys(keys, 0)
    for _ in keys:
        moved = False
        for a, b in links:
            if depth[b] <= depth[a]:
                depth[b], moved = depth[a] + 1, True
        if not moved:
            break
    return depth


def _apart(depth: dict[str, int], lanes: dict[str, float]) -> dict[str, float]:
    """Rows such that two steps of one column never overlap."""
    placed: dict[str, float] = {}
    for column in sorted(set(depth.values())):
        below = -1.0
        for key in sorted((k for k in depth if depth[k] == column), key=lambda k: lanes[k]):
            placed[key] = below = max(lanes[key], below + 1.0)
    return placed


def _placed(
    run: Run, by: dict[str, StepView], built: Sequence[Candidate], depth: dict[str, int], rows: dict[str, float]
) -> dict[str, Node]:
    targets = list(dict.fromkeys(c.target for c in run.candidates))
    widths = {
        d: max(_width(by[k].use, by[k].time) for k in depth if depth[k] == d) for d in sorted(set(depth.values()))
    }
    left, x = {}, 1.0
    for d, width in widths.items():
        left[d], x = x, x + width + GAP
    nodes = {}
    for key, d in depth.items():
        view, users = by[key], {c.target for c in built if key in c.steps}
        colour = targets.index(next(iter(users))) if len(users) == 1 else None
        nodes[key] = Node(left[d], rows[key] * LANE + LANE / 2, widths[d], view.use, view.time, view.anchor, colour)
    return nodes


def _ends(run: Run, nodes: dict[str, Node], built: Sequence[Candidate]) -> dict[str, Node]:
    """The candidates, in a column of their own at the right."""
    targets = list(dict.fromkeys(c.target for c in run.candidates))
    x = max(n.x + n.width for n in nodes.values()) + GAP
    width = max(_width(c.variant, f"{c.target}, {outcome_of(run, c) or ''}") for c in built)
    return {
        c.name: Node(x, place * LANE + LANE / 2, width, c.variant, c.target, "", targets.index(c.target),
                     outcome_of(run, c) or "")
        for place, c in enumerate(built)
    }  # fmt: skip


def _edge(a: Node, b: Node) -> str:
    x, to = a.x + a.width, b.x
    middle = to - GAP / 2
    if a.y == b.y:
        return f"M{x:.1f} {a.y:.1f}H{to:.1f}"
    return f"M{x:.1f} {a.y:.1f}H{to - GAP:.1f}C{middle:.1f} {a.y:.1f} {middle:.1f} {b.y:.1f} {to:.1f} {b.y:.1f}"


def _width(*texts: str) -> float:
    return LETTER * max(len(t) for t in texts) + ROOM


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
