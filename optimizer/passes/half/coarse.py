"""Which nodes of an ONNX graph bfloat16 is too coarse for: it reaches as far as float32 and has 8 bits of it.

The model runs beside itself rounded, on real data. Where a value comes out far off though what it was made from did
not, such as the cosine of a large angle, a difference of two like numbers, or an index that was computed in floats, its
node stays in float32; in the next round the nodes that feed it do, until none is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import extremes
from optimizer.formats.nodes import PAIR
from optimizer.passes.half.assignment import FLOAT, Assignment, assign
from optimizer.passes.half.guard import culprits
from optimizer.passes.half.numbers import BFLOAT16
from optimizer.passes.half.profile import Look
from optimizer.passes.half.rehearse import rehearsed

if TYPE_CHECKING:
    import onnx

LOST = 0.25  # relative error (sum of magnitudes) that a value may have: 100 times what rounding one number costs
GROWN = 4.0  # times the largest error of what it was made from: errors that add up layer by layer are nobody's fault
ROUNDS = 6  # how many nodes before it are tried, one after the other
SAMPLES = 16  # examples that are enough to see relative errors
SHOWN = 3
WIDE = "optc_wide_"  # before the names of the float32 model's values


def reasons(
    model: onnx.ModelProto,
    floats: frozenset[str],
    masked: set[str],
    kept: set[str],
    look: Look,
    progress: Callable[[int], None],
    warn: Callable[[str], None],
) -> dict[str, str]:
    """Node -> why it stays in float32, beside those that are `kept` already; in the order of the graph.

    `masked`: values that reach nothing but a softmax. What is not mended by the nodes that were kept for it lets them
    go again, with a warning. Raises OptimizerError when the model gives NaN or infinity whatever stays.
    """
    watched = _watched(model, floats - masked)
    found: dict[str, str] = {}  # node -> the value that it is kept for
    failing: dict[str, float] = {}
    worst: dict[str, float] = {}
    for rounds in range(ROUNDS + 1):
        assigned = assign(model, floats, {*kept, *found}, BFLOAT16)
        failing = _failing(model, _losses(model, assigned, masked, watched, look, progress), watched)
        worst = failing | worst
        more = {node: name for name in failing for node in culprits(model, assigned, [name])}
        if not more or rounds == ROUNDS:
            break
        found = more | found
    _require_finite(failing)
    if failing:
        names = ", ".join(f"'{name}' ({_told(error)})" for name, error in list(failing.items())[:SHOWN])
        warn(f"bfloat16 is too coarse for {names}, and to keep the nodes before it in float32 does not mend it")
    reason = {name: f"'{name}' is {_told(error)} once all is rounded to bfloat16" for name, error in worst.items()}
    useful = {node: name for node, name in found.items() if name not in failing}
    return {node.name: reason[useful[node.name]] for node in model.graph.node if node.name in useful}


def _require_finite(failing: Mapping[str, float]) -> None:
    broken = next((name for name, error in failing.items() if not np.isfinite(error)), None)
    if broken:
        raise OptimizerError(
            f"in bfloat16 the model gives NaN or infinity on real data, first in '{broken}', and no choice of nodes "
            "kept in float32 was found that mends it",
            "name the nodes in keep yourself, or leave this step out",
        )


def _told(error: float) -> str:
    return f"{error:.0%} off" if np.isfinite(error) else "NaN or infinity"


def _watched(model: onnx.ModelProto, floats: frozenset[str]) -> dict[str, bool]:
    """The values that are compared, in the order of the graph; whether they are whole numbers made of floats."""
    found: dict[str, bool] = {}
    for node in model.graph.node:
        index = node.op_type == "Cast" and node.input[0] in floats and node.output[0] not in floats
        found |= {name: index for name in node.output if name in floats or (index and name)}
    return found


def _losses(
    model: onnx.ModelProto,
    assigned: Assignment,
    masked: set[str],
    watched: Mapping[str, bool],
    look: Look,
    progress: Callable[[int], None],
) -> dict[str, float]:
    """Value -> how far it is off, relative to its size; those that are zero or infinite in float32 are left out."""
    both = rehearsed(model, assigned, masked)
    both.graph.node.extend(_renamed(model))
    nodes: list[onnx.NodeProto] = []
    for place, (name, whole) in enumerate(watched.items()):
        nodes += _sums(name, whole, place)
    names = [f"optc_{kind}{place}" for kind in ("lost", "size") for place in range(len(watched))]
    total = np.zeros(len(names))
    for found in extremes.scalars(both, names, nodes, look(), progress):
        total += found
    lost, size = total[: len(watched)], total[len(watched) :]
    return {
        name: float(lost[place] / size[place])
        for place, name in enumerate(watched)
        if size[place] and np.isfinite(size[place])
    }


def _sums(name: str, whole: bool, place: int) -> Iterator[onnx.NodeProto]:
    """Nodes that sum up the magnitudes of a value in float32, and those of its errors."""
    from onnx.helper import make_node

    rounded, exact = name, WIDE + name
    if whole:
        for source, result in ((rounded, f"optc_rounded{place}"), (exact, f"optc_exact{place}")):
            yield make_node("Cast", [source], [result], result, to=FLOAT)
        rounded, exact = f"optc_rounded{place}", f"optc_exact{place}"
    yield make_node("Sub", [rounded, exact], [f"optc_off{place}"], f"optc_off{place}")
    yield make_node("ReduceL1", [f"optc_off{place}"], [f"optc_lost{place}"], f"optc_lost{place}", keepdims=1)
    yield make_node("ReduceL1", [exact], [f"optc_size{place}"], f"optc_size{place}", keepdims=1)


def _renamed(model: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    """The nodes of the model under other names, values that they make included."""
    import onnx

    made = {name for node in model.graph.node for name in node.output if name}

    def rename(names: Any) -> None:
        names[:] = [WIDE + name if name in made else name for name in names]

    def inside(node: onnx.NodeProto) -> None:
        rename(node.input)
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                for value in body.output:
                    value.name = WIDE + value.name if value.name in made else value.name
                for inner in body.node:
                    inside(inner)

    for node in model.graph.node:
        found = onnx.NodeProto()
        found.CopyFrom(node)
        found.name = WIDE + node.name
        inside(found)
        rename(found.output)
        yield found


def _failing(model: onnx.ModelProto, lost: Mapping[str, float], watched: Mapping[str, bool]) -> dict[str, float]:
    """The values that are far off and whose inputs are not, in the order of the graph, with their errors.

    An index must not be off at all. Pairs are not judged: in 8 bits a little more is a step or none.
    """
    found: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type in PAIR:
            continue
        before = max((lost.get(name, 0.0) for name in node.input), default=0.0)
        for name in node.output:
            limit = 0.0 if watched.get(name) else max(LOST, GROWN * before)
            if name in lost and not lost[name] <= limit:
                found[name] = lost[name]
    return found
