"""The inner tensors of OpenVINO graphs: the same as taps_onnx.py for IR, through outputs added to its operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer.explain.matching import How, Match, Operation, match
from optimizer.explain.taps_onnx import Tap
from optimizer.formats import openvino as openvino_format
from optimizer.formats.nodes import PLUMBING
from optimizer.protocols import Feeds
from optimizer.values import Artifact

if TYPE_CHECKING:
    import openvino

FAKE = "FakeQuantize"
ENDS = "#ends"  # suffix of the made-up tensor that is 1 where a value lies at an end of its range
FLOATS = ("f32", "f16", "bf16", "f64")


def constant(op: Any) -> bool:
    """Whether an operation depends on constants alone, such as a weight that is scaled back to float."""
    queue, seen = [op], set()
    while queue:
        node = queue.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() in ("Parameter", "ReadValue"):
            return False
        queue += [port.get_source_output().get_node() for port in node.inputs()]
    return True


def computing(model: openvino.Model) -> list[Any]:
    """The operations that depend on the input, in topological order; with one output that is a float tensor."""
    moving: set[str] = set()
    found = []
    for op in model.get_ordered_ops():
        sources = {port.get_source_output().get_node().get_friendly_name() for port in op.inputs()}
        if op.get_type_name() == "Parameter" or sources & moving:
            moving.add(op.get_friendly_name())
            if op.get_type_name() not in PLUMBING:
                found.append(op)
    return found


def operations(ops: Sequence[Any]) -> list[Operation]:
    """As matching sees them, fake quantization left out."""
    return [
        Operation(op.get_friendly_name(), op.get_type_name(), (), _rank(op)) for op in ops if op.get_type_name() != FAKE
    ]


def _rank(op: Any) -> int | None:
    rank = op.output(0).get_partial_shape().rank
    return None if rank.is_dynamic else int(rank.get_length())


def source(op: Any, index: int = 0) -> str:
    """The friendly name of what an operation reads."""
    return str(op.input(index).get_source_output().get_node().get_friendly_name())


def taps(candidate: openvino.Model, ours: Sequence[Any], matched: Mapping[str, Match]) -> list[Tap]:
    """Every float tensor of the candidate with a counterpart."""
    counterpart: dict[str, tuple[str, How]] = {
        p.get_friendly_name(): (p.get_friendly_name(), "name") for p in candidate.get_parameters()
    }
    found = []
    for place, op in enumerate(ours):
        name, kind = op.get_friendly_name(), op.get_type_name()
        if kind == FAKE:
            pair = counterpart.get(source(op))
        else:
            seen = matched.get(name)
            pair = (seen.name, seen.how) if seen else None
        if pair is None or op.get_output_size() != 1 or op.output(0).get_element_type().get_type_name() not in FLOATS:
            continue
        counterpart[name] = pair
        reads = tuple(source(op, i) for i in range(op.get_input_size()))
        ends = name + ENDS if kind == FAKE else None
        found.append(Tap(name, kind, name, *pair, place, reads, ends))
    return found


class Tapping:
    """Candidate and baseline in IR, ready to give their tensors."""

    def __init__(self, candidate: Artifact, baseline: Artifact, threads: int) -> None:
        self._paths = candidate, baseline
        self._threads = threads
        self._chunks: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._model, other = openvino_format.load(candidate.path), openvino_format.load(baseline.path)
        ours, theirs = computing(self._model), computing(other)
        self.taps: Sequence[Tap] = taps(self._model, ours, match(operations(ours), operations(theirs)))
        self.bounds: Mapping[str, tuple[int, ...]] = {t.integers: (1,) for t in self.taps if t.integers}
        self._ranges = {
            op.get_friendly_name(): (_data(op, 3), _data(op, 4)) for op in ours if op.get_type_name() == FAKE
        }

    def sizes(self, feeds: Feeds) -> Mapping[str, int]:
        """Bytes of each tensor at the sizes of the feeds; the largest known where a shape is free."""
        model = openvino_format.load(self._paths[0].path)
        names = [spec.name for spec in openvino_format.signature(model).inputs]
        model.reshape({port: list(feeds[name].shape) for port, name in zip(model.inputs, names, strict=True)})
        shapes = {
            op.get_friendly_name(): op.get_output_partial_shape(0) for op in model.get_ops() if op.get_output_size()
        }
        known = {n: 4 * prod(s.to_shape()) for n, s in shapes.items() if not s.is_dynamic}
        return {tap.name: known.get(tap.name, max(known.values(), default=1 << 24)) for tap in self.taps}

    def run(self, feeds: Feeds, chunk: Sequence[Tap]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        key = tuple(tap.name for tap in chunk)
        if key not in self._chunks:
            self._chunks = {key: self._open(chunk)}  # one chunk is open at a time
        ours, theirs = (call(feeds) for call in self._chunks[key])
        for tap in chunk:
            if tap.integers and tap.name in self._ranges:
                low, high = self._ranges[tap.name]
                value = ours[tap.name]
                # An end that stands for 0 is none: behind a Relu the zeros there are right.
                at_end = (np.isclose(value, low) & (low != 0)) | (np.isclose(value, high) & (high != 0))
                ours[tap.integers] = at_end.astype(np.uint8)
        return ours, theirs

    def _open(self, chunk: Sequence[Tap]) -> tuple[Any, Any]:
        candidate, baseline = self._paths
        return (
            _Tapped(candidate, [tap.name for tap in chunk], self._threads),
            _Tapped(baseline, [tap.against for tap in chunk], self._threads),
        )


def _data(op: Any, index: int) -> np.ndarray:
    found: np.ndarray = np.asarray(op.input(index).get_source_output().get_node().get_data(), np.float32)
    return found


class _Tapped:
    """A model compiled with results behind some of its operations."""

    def __init__(self, artifact: Artifact, names: Sequence[str], threads: int) -> None:
        ov = openvino_format.library()
        model = openvino_format.load(artifact.path)
        ops = {op.get_friendly_name(): op for op in model.get_ops()}
        self._names = [n for n in dict.fromkeys(names) if n in ops]
        self._inputs = [spec.name for spec in openvino_format.signature(model).inputs]
        known = len(model.outputs)
        added = [ov.opset13.result(ops[name].output(0)) for name in self._names]
        model.add_results(added)
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self._request = openvino_format.compiled(model, config).create_infer_request()
        self._first = known

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        found = self._request.infer(dict(feeds), share_inputs=True)
        values = {name: found[self._first + i] for i, name in enumerate(self._names)}
        return {**values, **{n: feeds[n] for n in self._inputs if n in feeds}}
