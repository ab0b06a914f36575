"""Which nodes of an ONNX graph must stay in float32, and why: seen on real data, then rehearsed.

First every float32 value is watched, with the sums and squares inside operators, and every weight is looked at: what
float16 cannot hold, times a margin, stays. Then the model runs with all others rounded to float16; where NaN or
infinity comes out, the first node that gives it stays too, until none does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from optimizer.errors import OptimizerError
from optimizer.formats import extremes
from optimizer.formats.nodes import PAIR
from optimizer.passes.half import masks, numbers, pairs
from optimizer.passes.half.assignment import Assignment, assign
from optimizer.passes.half.profile import Look, Profile, observe
from optimizer.passes.half.rehearse import rehearsed

if TYPE_CHECKING:
    import onnx

ROUNDS = 20  # rehearsals; each keeps all nodes that are the first to fail
SATURATING = frozenset(("Clip", "Min", "Max"))  # a bound beyond float16 bounds nothing there, and nor do its ends
BROKEN = "gives NaN or infinity once its inputs are rounded to float16"


def reasons(
    model: onnx.ModelProto,
    floats: frozenset[str],
    masked: set[str],
    kept: set[str],
    margin: float,
    look: Look,
    progress: Callable[[int], None],
) -> dict[str, str]:
    """Node -> why it stays in float32, beside those that are `kept` already; in the order of the graph.

    `masked`: values that reach nothing but a softmax. Raises OptimizerError when the model gives NaN or infinity
    whatever stays.
    """
    assigned = assign(model, floats, kept)
    profile = observe(model, floats, masked, look, progress)
    found = {**values(model, assigned, profile, numbers.LARGEST / margin), **weights(model, assigned, masked)}
    found |= pairs.faults(model)
    for _ in range(ROUNDS):
        assigned = assign(model, floats, {*kept, *found})
        failing = _rehearse(model, assigned, masked, profile, look)
        if not failing:
            return {node.name: found[node.name] for node in model.graph.node if node.name in found}
        more = culprits(model, assigned, failing)
        if not more:
            break
        found |= dict.fromkeys(more, BROKEN)
    raise OptimizerError(
        f"in float16 the model gives NaN or infinity on real data, first in '{failing[0]}', and no choice of nodes "
        "kept in float32 was found that mends it",
        "name the nodes in keep yourself, or leave this step out",
    )


def values(model: onnx.ModelProto, assigned: Assignment, profile: Profile, limit: float) -> dict[str, str]:
    """Narrow nodes that touch or compute what lies beyond `limit` or vanishes -> why."""
    faults = {name: reason for name, seen in profile.values.items() if (reason := seen.fault(limit))}
    found = {}
    for index, node in enumerate(model.graph.node):
        if not assigned.narrow(index):
            continue
        bad = next((name for name in (*node.output, *node.input) if name in faults), None)
        what, top = profile.inner.get(node.name, ("", 0.0))
        if bad:
            found[node.name] = f"'{bad}' {faults[bad]}"
        elif not top <= limit:
            found[node.name] = f"{what} {top:.3g}"
    return found


def weights(model: onnx.ModelProto, assigned: Assignment, masked: set[str]) -> dict[str, str]:
    """Narrow nodes with a constant that float16 cannot hold -> which one, and why."""
    import onnx

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    faults: dict[str, str | None] = {}
    found: dict[str, str] = {}
    for index, node in enumerate(model.graph.node):
        for place in assigned.reads.get(index, ()):
            name = node.input[place]
            scale = node.op_type in PAIR and place == 1  # see pairs.faults
            if name not in tensors or scale or (node.op_type in SATURATING and place > 0):
                continue
            if name not in faults:
                array = onnx.numpy_helper.to_array(tensors[name])
                faults[name] = numbers.fault(masks.judged(array) if name in masked else array)
            if faults[name]:
                found[node.name] = f"'{name}': {faults[name]}"
    return found


def _rehearse(
    model: onnx.ModelProto, assigned: Assignment, masked: set[str], profile: Profile, look: Look
) -> list[str]:
    """The values that are NaN or infinite in the rehearsal and were not before, in the order of the graph."""
    import onnx

    rehearsal = rehearsed(model, assigned, masked)
    watched = [name for name, seen in profile.values.items() if seen.finite]  # as they were in float32
    names = [f"optc_sum{place}" for place in range(len(watched))]
    # A sum of magnitudes, since ReduceMin and ReduceMax pass over NaN.
    nodes = [
        onnx.helper.make_node("ReduceL1", [value], [name], name, keepdims=1)
        for value, name in zip(watched, names, strict=True)
    ]
    total = np.zeros(len(watched))
    for found in extremes.scalars(rehearsal, names, nodes, look(), lambda done: None):
        total += found
    return [name for name, finite in zip(watched, np.isfinite(total), strict=True) if not finite]


def culprits(model: onnx.ModelProto, assigned: Assignment, failing: list[str]) -> list[str]:
    """The narrow nodes to blame: the first to fail, or the nearest before it where it is in float32 already."""
    bad = {*failing}
    makers = {name: node for node in model.graph.node for name in node.output}
    narrow = {node.name for index, node in enumerate(model.graph.node) if assigned.narrow(index)}
    found: dict[str, None] = {}
    for node in model.graph.node:
        if not bad & {*node.output} or bad & {*node.input}:
            continue
        queue, passed = [node], {node.name}
        while queue:
            suspect = queue.pop()
            if suspect.name in narrow:
                found[suspect.name] = None
                continue
            before = [makers[name] for name in suspect.input if name in makers and makers[name].name not in passed]
            queue += before
            passed |= {other.name for other in before}
    return list(found)
