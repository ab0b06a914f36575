"""What the values of a float model are on real data, with sums and squares that operators never show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from optimizer.formats import extremes
from optimizer.passes.half import inner, masks, numbers
from optimizer.protocols import Feeds

if TYPE_CHECKING:
    import onnx

Look = Callable[[], Iterable[Feeds]]
"""The samples, as often as they are asked for."""


@dataclass(frozen=True)
class Seen:
    """The ends of a value on the data, and whether all of it was `finite`.

    `rest`: the lowest that is not a mask's, where the value may hold masks.
    """

    low: float
    high: float
    finite: bool
    rest: float | None = None

    def fault(self, limit: float) -> str | None:
        """Why float16 cannot hold it, or None."""
        low = self.low
        if self.rest is not None and low < masks.LOW and max(-self.rest, self.high) <= masks.REST:
            low = self.rest
        top = max(-low, self.high)
        if not top <= limit:
            return f"reaches {top:.3g}"
        if 0 < top < numbers.NORMAL and low == self.low:
            return f"stays below {top:.1g}, where float16 has few bits left"
        return None


@dataclass(frozen=True)
class Profile:
    """What was seen of each float32 value, and inside nodes: node -> what it is, and its largest magnitude."""

    values: Mapping[str, Seen]
    inner: Mapping[str, tuple[str, float]]


class _Probe:
    """Scalars to be computed beside the graph, by nodes that are added to it."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.names: list[str] = []

    def end(self, kind: str, tensor: str) -> int:
        """The place of the lowest (ReduceMin) or highest (ReduceMax) value of a tensor."""
        import onnx

        name = f"optc_end{len(self.names)}"
        self.nodes.append(onnx.helper.make_node(kind, [tensor], [name], name, keepdims=1))
        self.names.append(name)
        return len(self.names) - 1


def observe(
    model: onnx.ModelProto, floats: Iterable[str], masked: Collection[str], look: Look, progress: Callable[[int], None]
) -> Profile:
    """Run the float model over the samples; `floats`: its float32 values, of which `masked` may hold masks."""
    floats, probe = frozenset(floats), _Probe()
    places: dict[str, tuple[int, int, int, int | None]] = {}
    for name in _activations(model, floats):
        rest = None
        if name in masked:
            probe.nodes += masks.rest(name, f"optc_rest_{name}")
            rest = probe.end("ReduceMin", f"optc_rest_{name}")
        # A sum of magnitudes, since minimum and maximum pass over NaN.
        total = probe.end("ReduceL1", name)
        places[name] = probe.end("ReduceMin", name), probe.end("ReduceMax", name), total, rest
    nodes, quantities = inner.quantities(model, floats)
    probe.nodes += nodes
    hidden = [(quantity, probe.end("ReduceMax", quantity.output)) for quantity in quantities]
    lows, highs = np.full(len(probe.names), np.inf), np.full(len(probe.names), -np.inf)
    for found in extremes.scalars(model, probe.names, probe.nodes, look(), progress):
        lows, highs = np.minimum(lows, found), np.maximum(highs, found)
    values = {
        name: Seen(
            float(lows[low]),
            float(highs[high]),
            bool(np.isfinite(highs[total])),
            None if rest is None else float(lows[rest]),
        )
        for name, (low, high, total, rest) in places.items()
    }
    return Profile(values, {q.node: (q.what, q.worst(float(highs[place]))) for q, place in hidden})


def _activations(model: onnx.ModelProto, floats: Iterable[str]) -> list[str]:
    """The float32 values that are no constants, in the order in which they come about."""
    constants = {tensor.name for tensor in model.graph.initializer}
    wanted = {*floats} - constants
    every = [*(value.name for value in model.graph.input), *(n for node in model.graph.node for n in node.output)]
    return [name for name in every if name in wanted]
