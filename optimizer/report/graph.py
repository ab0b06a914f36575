"""The steps of a run as a small directed graph: a column per step of depth, a row per candidate, shared steps once.

Coordinates are pixels of a drawing of its natural size; wide graphs scroll inside their frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

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
    described = f"{len(depth)} steps lead to {len(built)} candidates; the list below names them in order"
    links += [(next(k for k in reversed(c.steps) if k in by), c.name) for c in built]
    depth |= dict.fromkeys((c.name for c in built), max(depth.values()) + 1)
    lanes |= {c.name: float(place) for place, c in enumerate(built)}
    ways = _ways(links, depth, lanes)
    nodes = _placed(_boxes(run, by, built), depth, _apart(depth, lanes))
    edges = tuple("".join(_passed(nodes, way)) for way in ways)
    drawn = tuple(n for n in nodes.values() if n.label)
    width = max(n.x + n.width for n in drawn)
    height = max(n.y for n in nodes.values()) + LANE / 2
    return Graph(round(width) + 2, round(height), drawn, edges, described)


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


def _ways(links: Iterable[tuple[str, str]], depth: dict[str, int], lanes: dict[str, float]) -> list[list[str]]:
    """The points that each line passes: a line over several columns gets an empty place in each, so that it runs
    beside the boxes there and never behind one. Adds these places to `depth` and `lanes`.
    """
    columns = sorted(set(depth.values()))
    ways = []
    for a, b in links:
        between = {f"{a}/{b}/{d}": d for d in columns if depth[a] < d < depth[b]}
        ways.append([a, *between, b])
        lanes |= dict.fromkeys(between, lanes[b])
        depth |= between
    return ways


def _boxes(run: Run, by: dict[str, StepView], built: Sequence[Candidate]) -> dict[str, Node]:
    """What stands in each box, not yet placed."""
    targets = list(dict.fromkeys(c.target for c in run.candidates))
    found = {}
    for key, view in by.items():
        users = {c.target for c in built if key in c.steps}
        colour = targets.index(next(iter(users))) if len(users) == 1 else None
        found[key] = Node(0, 0, _width(view.use, view.time), view.use, view.time, view.anchor, colour)
    for c in built:
        outcome = outcome_of(run, c) or ""
        width = _width(c.variant, f"{c.target}, {outcome}")
        found[c.name] = Node(0, 0, width, c.variant, c.target, "", targets.index(c.target), outcome)
    return found


def _placed(boxes: dict[str, Node], depth: dict[str, int], rows: dict[str, float]) -> dict[str, Node]:
    """Boxes and empty places where they are drawn; all of a column are as wide as its widest."""
    nodes = {}
    x = 1.0
    for column in sorted(set(depth.values())):
        keys = [key for key, d in depth.items() if d == column]
        width = max(boxes[key].width for key in keys if key in boxes)
        for key in keys:
            box = boxes.get(key, Node(0, 0, 0, "", "", "", None))
            nodes[key] = replace(box, x=x, y=rows[key] * LANE + LANE / 2, width=width)
        x += width + GAP
    return nodes


def _passed(nodes: dict[str, Node], way: Sequence[str]) -> Iterator[str]:
    for a, b in itertools.pairwise(nodes[key] for key in way):
        yield _edge(a, b)
        if not b.label:
            yield f"H{b.x + b.width:.1f}"


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
