"""Variants of an ONNX candidate whose step left no Q/DQ pairs to graft: the step is done again with layers in `keep`.

So it is with products whose activations are quantized when they arrive, with weights of 4 or 8 bits alone, and with
16-bit floats.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence, Set
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer import formats, registry, schema
from optimizer.anatomy import macs
from optimizer.anatomy.onnx import shapes
from optimizer.explain.keep import selectors
from optimizer.explain.opened import Opened
from optimizer.explain.variants import Layer
from optimizer.formats import onnx as onnx_format
from optimizer.formats import onnx_ready
from optimizer.formats.feeds import sizes_of
from optimizer.produce import Producer
from optimizer.protocols import Feeds, Session
from optimizer.steps import Step
from optimizer.values import Artifact

if TYPE_CHECKING:
    import onnx


class RebuiltVariants:
    """Variants by other options of one step, whose result the target runs as it is."""

    notes: Sequence[str] = ()

    def __init__(
        self, step: Step, made: Artifact, producer: Producer, target: str, options: Mapping[str, Any], feeds: Feeds
    ) -> None:
        self._step, self._made, self._producer = step, made, producer
        plugin = registry.load("targets", target)
        self._opened = Opened(plugin, schema.parse(plugin.Options, options, target), self.written)
        self._source = producer.done[str(step.source)].artifact
        model = onnx_ready.prepared(self._source)
        sizes = sizes_of(made.signature, feeds)
        self.layers: Sequence[Layer] = tuple(_layers(model, onnx_format.load(made.path), sizes))
        self._every = frozenset(layer.name for layer in self.layers)

    def session(self, kept: Set[str]) -> Session:
        return self._opened.session(self.same(kept), kept)

    def same(self, kept: Set[str]) -> object:
        return self._every & kept

    def written(self, kept: Set[str], folder: Path) -> Artifact:
        if self._every <= kept:  # a step refuses to quantize nothing
            formats.hand_on("onnx", self._source.path, folder)
            return dataclasses.replace(self._source, path=folder)
        own = list(getattr(self._step.options, "keep", ()))
        keep = [*own, *(s for s in selectors(self._every & kept, self.layers) if s not in own)]
        options = self._step.options.model_copy(update={"keep": keep})
        self._producer.rehearse(dataclasses.replace(self._step, options=options), folder)
        return dataclasses.replace(self._made, path=folder)

    def real(self, kept: Set[str]) -> contextlib.AbstractContextManager[Session]:
        return self._opened.real(kept)


def _layers(source: onnx.ModelProto, made: onnx.ModelProto, sizes: Mapping[str, int]) -> Iterator[Layer]:
    """The nodes that read a weight in float32 which the result holds in another type."""
    before = {t.name: prod(t.dims) for t in source.graph.initializer if _float(t) and len(t.dims) > 1}
    after = {t.name for t in made.graph.initializer if _float(t)}
    known = shapes(source, sizes)
    for node in source.graph.node:
        gone = [name for name in node.input if name in before and name not in after]
        if gone:
            yield Layer(node.name, node.op_type, macs.count(node, known) or 0, sum(before[name] for name in gone))


def _float(tensor: onnx.TensorProto) -> bool:
    return int(tensor.data_type) == 1  # TensorProto.FLOAT
