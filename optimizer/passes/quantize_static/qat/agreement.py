"""How far the runtime's quantized values lie from the fake quantizers', tensor by tensor, in steps of 8 bits."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import machine
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_torch
from optimizer.passes.quantize_static.grid import Grid
from optimizer.passes.quantize_static.qat.fake import Fake
from optimizer.protocols import Feeds

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

DOUBTED = 0.01  # share of a tensor's values beyond one step: a difference of one step grows in the layers behind it
SHOWN = 5


@dataclass
class Seen:
    """One stored tensor: over all samples, how many values it has, and how many of them lie how far apart."""

    name: str
    values: int = 0
    apart: int = 0  # values that are not the same
    beyond: int = 0  # of these, by more than one step
    largest: int = 0  # steps
    local: int = 0  # the same where training's arithmetic is given the runtime's own values up to here

    def add(self, steps: np.ndarray, local: np.ndarray) -> None:
        self.values += steps.size
        self.apart += int((steps > 0).sum())
        self.beyond += int((steps > 1).sum())
        self.largest = max(self.largest, int(steps.max(initial=0)))
        self.local = max(self.local, int(local.max(initial=0)))

    @property
    def share(self) -> float:
        """Of the values that lie more than one step apart."""
        return self.beyond / max(self.values, 1)


@dataclass(frozen=True)
class Agreement:
    """What the runtime stores beside what training computed, tensor by tensor in the order of the graph."""

    tensors: tuple[Seen, ...]

    def document(self) -> dict[str, Any]:
        """For the record. `equal`: share of the values that are the same; `largest`: steps by which one differs most.

        `local`: the same, where each quantizer gets what the runtime has stored before it. A value on the edge of two
        steps differs there by one, and by more where it is added up on a finer grid.
        """
        total = sum(seen.values for seen in self.tensors)
        beyond = sorted((seen for seen in self.tensors if seen.beyond), key=lambda seen: -seen.largest)
        return {
            "tensors": len(self.tensors),
            "values": total,
            "equal": round(1 - sum(seen.apart for seen in self.tensors) / max(total, 1), 6),
            "largest": max((seen.largest for seen in self.tensors), default=0),
            "local": max((seen.local for seen in self.tensors), default=0),
            "beyond": {seen.name: seen.largest for seen in beyond[:SHOWN]},
        }

    def doubt(self) -> str | None:
        """What to warn of: more than DOUBTED of a tensor beyond one step, and where in the graph that begins."""
        found = [seen for seen in self.tensors if seen.share > DOUBTED]
        if not found:
            return None
        first = next(seen for seen in self.tensors if seen.apart > DOUBTED * seen.values)
        words = [f"'{seen.name}' {seen.share:.1%}, by up to {seen.largest}" for seen in found[:SHOWN]]
        return (
            f"ONNX Runtime stores other integers here than training computed: of {len(found)} of {len(self.tensors)} "
            f"tensors more than {DOUBTED:.0%} is off by more than one step ({'; '.join(words)}); in the order of the "
            f"graph differences begin at '{first.name}'"
        )


def measure(
    quantized: onnx.ModelProto,
    fake: Fake,
    trained: nn.Module,
    samples: Iterable[Feeds],
    level: onnx_format.Level = "all",
) -> Agreement:
    """Compare the quantized model in ONNX Runtime with the trained module on samples."""
    import torch

    own = fake.learnt(onnx_torch.values_of(trained)).tensors
    watched = {pair.tensor for pair in fake.pairs.values() if pair.constant is None}
    roots = {node.output[0]: fake.pairs[node.name].tensor for node in fake.model.graph.node if node.name in fake.pairs}
    tensors = [name for name in fake.stored() if roots[name] in watched]
    written = _grids(quantized)
    given = _Given(fake)
    whole, piecewise = fake.module(outputs=True), fake.module(quantize=given)
    for module in (whole, piecewise):
        module.load_state_dict(trained.state_dict())
    seen = {name: Seen(name) for name in tensors}
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        onnx_format.save(_tapped(quantized, tensors), Path(folder))
        session = onnx_format.inference_session(Path(folder), machine.here().cores, level)
        for feeds in samples:
            stored = dict(zip(tensors, session.run(tensors, dict(feeds)), strict=True))
            given.values = onnx_torch.feeds_of({name: written[name].real(array) for name, array in stored.items()})
            with torch.no_grad():
                wanted = whole(onnx_torch.feeds_of(feeds))
                piecewise(onnx_torch.feeds_of(feeds))
            for name, array in stored.items():
                grid = own[roots[name]]
                seen[name].add(_steps(array, wanted[name], grid), _steps(array, given.found[name], grid))
    return Agreement(tuple(seen.values()))


class _Given:
    """Fake quantizers that keep what they find, and hand on what the runtime has stored in its place."""

    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.values: dict[str, torch.Tensor] = {}  # stored tensor -> the real values that it stands for
        self.found: dict[str, torch.Tensor] = {}

    def __call__(self, op: onnx_torch.Operation, x: torch.Tensor, *grid: torch.Tensor) -> torch.Tensor:
        name = op.outputs[0]
        found = self._fake.quantize(op, x, *grid)
        if name not in self.values:  # a weight
            return found
        self.found[name] = found
        return self.values[name]


def _steps(stored: np.ndarray, real: torch.Tensor, grid: Grid) -> np.ndarray:
    """By how many steps stored values differ from those that stand for `real`."""
    expected = np.rint(real.numpy() / grid.scale) + grid.zero
    steps: np.ndarray = np.abs(stored.astype(np.int64) - expected.astype(np.int64))
    return steps


def _grids(model: onnx.ModelProto) -> dict[str, Grid]:
    """Stored tensor -> its grid in the file."""
    import onnx

    found = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    read = {name for node in found for name in node.input}
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in read}
    return {node.output[0]: Grid(arrays[node.input[1]], arrays[node.input[2]]) for node in found}


def _tapped(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """A copy of the model that gives these stored tensors too."""
    import onnx

    found = copy.deepcopy(model)
    kinds = {t.name: t.data_type for t in found.graph.initializer}
    zeros = {node.output[0]: node.input[2] for node in found.graph.node if node.op_type == "QuantizeLinear"}
    for name in tensors:
        found.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[zeros[name]], None))
    return found
