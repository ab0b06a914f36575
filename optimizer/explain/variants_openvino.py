"""Variants of a fake-quantized IR: layers are freed of their FakeQuantize, and get their float weights back."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import schema
from optimizer.anatomy.openvino import multiplications
from optimizer.explain.matching import match
from optimizer.explain.opened import Opened
from optimizer.explain.taps_openvino import FAKE, computing, constant, operations
from optimizer.explain.variants import Layer
from optimizer.formats import openvino as openvino_format
from optimizer.passes.quantize_static.openvino import MOVING
from optimizer.protocols import Feeds, Session
from optimizer.registry import load
from optimizer.values import Artifact

if TYPE_CHECKING:
    import openvino

ROUNDED = ("Convert", "Multiply", "Subtract", FAKE)  # what a stored integer weight goes through


class OpenvinoVariants:
    """Variants of a candidate in IR; every choice is compiled anew, the last one stays open."""

    def __init__(
        self, candidate: Artifact, baseline: Artifact, target: str, options: Mapping[str, Any], feeds: Feeds
    ) -> None:
        plugin = load("targets", target)
        self._candidate = candidate
        self._opened = Opened(plugin, schema.parse(plugin.Options, options, target), self.written)
        model, self._other = openvino_format.load(candidate.path), openvino_format.load(baseline.path)
        matched = match(operations(computing(model)), operations(computing(self._other)))
        self._weights = _weights(model, {n: m.name for n, m in matched.items()}, self._other)
        self._readers = _readers(model)
        self.layers: Sequence[Layer] = _layers(candidate, feeds, self._readers, self._weights)
        left = [layer.name for layer in self.layers if layer.macs and layer.name not in self._weights]
        self.notes: Sequence[str] = (
            (f"the weights of {len(left)} layers have no counterpart in the baseline and stay rounded in all variants",)
            if left
            else ()
        )

    def session(self, kept: Set[str]) -> Session:
        return self._opened.session(self.same(kept), kept)

    def same(self, kept: Set[str]) -> object:
        return frozenset(kept & {layer.name for layer in self.layers})

    def written(self, kept: Set[str], folder: Path) -> Artifact:
        precision = openvino_format.precision(self._candidate.path)
        openvino_format.save(self._freed(kept), folder, precision=precision)
        return replace(self._candidate, path=folder)

    def real(self, kept: Set[str]) -> contextlib.AbstractContextManager[Session]:
        return self._opened.real(kept)

    def _freed(self, kept: Set[str]) -> openvino.Model:
        """The candidate without the rounding that only kept layers read."""
        ov = openvino_format.library()
        model = openvino_format.load(self._candidate.path)
        ops = {op.get_friendly_name(): op for op in model.get_ops()}
        names = _outputs(model)
        for fake, readers in self._readers.items():
            if readers <= kept:
                ops[fake].output(0).replace(ops[fake].input(0).get_source_output())
        for layer, place, theirs in ((n, *weight) for n, found in self._weights.items() for weight in found):
            if layer in kept:
                ops[layer].input(place).replace_source_output(ov.opset13.constant(theirs.get_data()).output(0))
        openvino_format.name_outputs(model, names)
        model.validate_nodes_and_infer_types()
        return model


def _outputs(model: openvino.Model) -> tuple[str, ...]:
    return tuple(openvino_format.output_name(port) for port in model.outputs)


def _readers(model: openvino.Model) -> dict[str, frozenset[str]]:
    """FakeQuantize on an activation -> the operations that compute on what it gives, through what only moves it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for op in computing(model):
        if op.get_type_name() != FAKE:
            continue
        queue = [target.get_node() for target in op.output(0).get_target_inputs()]
        while queue:
            node = queue.pop()
            if node.get_type_name() in MOVING:
                queue += [t.get_node() for port in node.outputs() for t in port.get_target_inputs()]
            else:
                found[op.get_friendly_name()].add(node.get_friendly_name())
    return {name: frozenset(readers) for name, readers in found.items()}


def _weights(
    model: openvino.Model, matched: Mapping[str, str], other: openvino.Model
) -> dict[str, list[tuple[int, Any]]]:
    """Layer -> (input, the baseline's constant) of each weight that is stored in integers."""
    theirs = {op.get_friendly_name(): op for op in other.get_ops()}
    found: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
    for op in computing(model):
        name = op.get_friendly_name()
        if name not in matched:
            continue
        for place in range(op.get_input_size()):
            maker = op.input(place).get_source_output().get_node()
            if maker.get_type_name() not in ROUNDED or not constant(maker):
                continue
            counterpart = theirs[matched[name]]
            if place < counterpart.get_input_size():
                weight = counterpart.input(place).get_source_output().get_node()
                same = list(op.input(place).get_shape()) == list(
                    counterpart.input(place).get_partial_shape().to_shape()
                )
                if weight.get_type_name() == "Constant" and same:
                    found[name].append((place, weight))
    return dict(found)


def _layers(
    candidate: Artifact,
    feeds: Feeds,
    readers: Mapping[str, frozenset[str]],
    weights: Mapping[str, list[tuple[int, Any]]],
) -> tuple[Layer, ...]:
    """The operations that read a rounded tensor or a rounded weight, with their multiplications at the feeds' sizes."""
    model = openvino_format.load(candidate.path)
    names = [spec.name for spec in openvino_format.signature(model).inputs]
    model.reshape({port: list(feeds[name].shape) for port, name in zip(model.inputs, names, strict=True)})
    wanted = set(weights).union(*readers.values())
    return tuple(
        Layer(op.get_friendly_name(), op.get_type_name(), multiplications(op) or 0, _stored(weights, op))
        for op in computing(model)
        if op.get_friendly_name() in wanted
    )


def _stored(weights: Mapping[str, list[tuple[int, Any]]], op: Any) -> int:
    """Values of the weights that would come back in float."""
    return sum(int(theirs.get_data().size) for _, theirs in weights.get(op.get_friendly_name(), ()))
