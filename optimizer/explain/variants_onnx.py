"""Variants of a Q/DQ graph in ONNX: one session serves them all through switches; see grafting.py."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimizer import schema
from optimizer.anatomy import macs
from optimizer.anatomy.onnx import shapes
from optimizer.explain import grafting, taps_onnx
from optimizer.explain.variants import Layer
from optimizer.formats import onnx as onnx_format
from optimizer.formats.feeds import sizes_of
from optimizer.protocols import Feeds, Session
from optimizer.registry import load
from optimizer.values import Artifact, Signature

if TYPE_CHECKING:
    import onnx
    import onnxruntime


class OnnxVariants:
    """Variants of a candidate whose Q/DQ pairs were put into the graph of its baseline."""

    def __init__(
        self,
        candidate: Artifact,
        baseline: Artifact,
        target: str,
        options: Mapping[str, Any],
        feeds: Feeds,
        threads: int,
    ) -> None:
        model = taps_onnx.candidate(candidate)
        other = taps_onnx.reference(baseline, model)
        plugin = load("targets", target)
        self._plan = grafting.plan(model, other, taps_onnx.paired(model, other), plugin.SCHEME)
        self._candidate, self._target, self._options = candidate, plugin, schema.parse(plugin.Options, options, target)
        self._threads = threads
        self._switched: onnxruntime.InferenceSession | None = None
        self.layers: Sequence[Layer] = _layers(self._plan, sizes_of(candidate.signature, feeds))
        lost, total = self._plan.lost, self._plan.lost + len(self._plan.pairs)
        note = f"{lost} of {total} Q/DQ pairs cannot be told apart layer by layer and are left out"
        self.notes: Sequence[str] = (note,) if lost else ()

    def session(self, kept: Set[str]) -> Session:
        if self._switched is None:
            self._switched = _opened(grafting.graft(self._plan), self._threads)
        active = self._plan.active(kept)
        switches = {grafting.switch(i): np.array(i in active) for i in range(len(self._plan.pairs))}
        return _Switched(self._switched, self._candidate.signature, switches)

    def same(self, kept: Set[str]) -> object:
        return self._plan.active(kept)

    def written(self, kept: Set[str], folder: Path) -> Artifact:
        onnx_format.save(grafting.graft(self._plan, self._plan.active(kept)), folder)
        return replace(self._candidate, path=folder)

    @contextlib.contextmanager
    def real(self, kept: Set[str]) -> Iterator[Session]:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optc-")))
            yield stack.enter_context(self._target.open(self.written(kept, folder), self._options))


def _layers(plan: grafting.Transplant, sizes: Mapping[str, int]) -> tuple[Layer, ...]:
    known = shapes(plan.target, sizes)
    nodes = {node.name: node for node in plan.target.graph.node}
    weights: Counter[str] = Counter()
    for pair in plan.pairs:
        if pair.constant:
            weights.update(dict.fromkeys(pair.askers, prod(known.get(pair.tensor, ()))))
    return tuple(
        Layer(layer.name, layer.op, macs.count(nodes[layer.name], known) or 0, weights[layer.node])
        for layer in plan.layers
    )


def _opened(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    def configure(settings: Any) -> None:
        settings.add_session_config_entry("session.disable_quant_qdq", "1")  # switches stand between the pairs

    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        onnx_format.save(model, Path(folder))
        return onnx_format.inference_session(Path(folder), threads, configure=configure)


class _Switched:
    """The session with one setting of the switches."""

    precision = "float32 with simulated rounding"

    def __init__(
        self, session: onnxruntime.InferenceSession, signature: Signature, switches: Mapping[str, np.ndarray]
    ) -> None:
        self.signature = signature
        self._session, self._switches = session, switches
        self._names = [spec.name for spec in signature.outputs]

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        found = self._session.run(self._names, {**feeds, **self._switches})
        return dict(zip(self._names, found, strict=True))
