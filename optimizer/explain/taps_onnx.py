"""The inner tensors of ONNX graphs: what there is, which belong together, and their values in chunks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimizer.anatomy.onnx import shapes
from optimizer.errors import OptimizerError
from optimizer.explain.matching import How, Match, Operation, match
from optimizer.formats import nodes, onnx_ready
from optimizer.formats import onnx as onnx_format
from optimizer.formats.feeds import sizes_of
from optimizer.protocols import Feeds
from optimizer.values import Artifact

if TYPE_CHECKING:
    import numpy as np
    import onnx

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
CONVERSIONS = (QUANTIZE, DEQUANTIZE)
KEPT = ("BatchNormalization",)  # a candidate that still has one was quantized without folding


@dataclass(frozen=True)
class Tap:
    """A tensor of the candidate and its counterpart in the baseline."""

    name: str
    op: str
    node: str
    against: str
    how: How
    place: int
    inputs: tuple[str, ...]  # tensors of the candidate that its node reads
    integers: str | None = None  # where it was dequantized: the quantized tensor


@dataclass(frozen=True)
class Graph:
    """A graph in memory with what matching and tapping ask of it."""

    model: onnx.ModelProto

    @property
    def operations(self) -> list[Operation]:
        """The computing nodes in topological order."""
        ranks = _ranks(self.model)
        return [
            Operation(n.name, n.op_type, tuple(n.output), ranks.get(n.output[0]))
            for n in self.model.graph.node
            if n.op_type not in CONVERSIONS
        ]


def candidate(artifact: Artifact) -> onnx.ModelProto:
    """The candidate's graph, its nodes named."""
    model = onnx_format.load(artifact.path)
    nodes.name_nodes(model)
    return model


def reference(artifact: Artifact, quantized: onnx.ModelProto) -> onnx.ModelProto:
    """The baseline's graph as the quantizer saw it: constants and norms folded, where they are in the candidate."""
    model = onnx_format.load(artifact.path)
    whole = any(node.op_type in KEPT for node in quantized.graph.node)
    if whole or any(node.op_type in CONVERSIONS for node in model.graph.node):
        nodes.name_nodes(model)
        return model
    prepared = onnx_ready.prepared(artifact)
    onnx_ready.unmark(prepared)
    return prepared


def paired(quantized: onnx.ModelProto, float_model: onnx.ModelProto) -> dict[str, Match]:
    """Candidate node -> baseline node."""
    return match(Graph(quantized).operations, Graph(float_model).operations)


def taps(quantized: onnx.ModelProto, float_model: onnx.ModelProto, matched: Mapping[str, Match]) -> list[Tap]:
    """Every float tensor of the candidate that has a counterpart, in topological order.

    What a Q/DQ pair gives has the counterpart of what it takes. An activation that was merged into the rounding
    (Relu) is found by the name of its output.
    """
    maker = {out: node for node in float_model.graph.node for out in node.output}
    inputs = {value.name for value in float_model.graph.input}
    theirs = {node.name: node for node in float_model.graph.node}
    counterpart: dict[str, tuple[str, How]] = {v.name: (v.name, "name") for v in quantized.graph.input}
    integers: dict[str, str] = {}
    found: list[Tap] = []
    for place, node in enumerate(quantized.graph.node):
        if node.op_type == QUANTIZE:
            integers[node.output[0]] = node.input[0]
            continue
        if node.op_type == DEQUANTIZE:
            source = integers.get(node.input[0])
            if source in counterpart:
                counterpart[node.output[0]] = counterpart[source]
                tap = Tap(node.output[0], QUANTIZE, node.name, *counterpart[source], place, (source,), node.input[0])
                found.append(tap)
            continue
        pair = matched.get(node.name)
        for index, out in enumerate(node.output):
            plain = out.removesuffix("_QuantizeLinear_Input")
            same = theirs[pair.name].output[index] if pair and index < len(theirs[pair.name].output) else None
            own: tuple[str, How] | None = (same, pair.how) if pair and same else None
            named: tuple[str, How] | None = (plain, "name") if plain in maker or plain in inputs else None
            # A name whose maker is of another type: an activation was merged into the rounding behind it.
            exact = named if named and plain in maker and maker[plain].op_type == node.op_type else own
            if exact:
                found.append(Tap(out, node.op_type, node.name, *exact, place, tuple(node.input)))
            after = named or own
            if after:
                counterpart[out] = after
    return found


class Tapped:
    """A model of which every named tensor can be asked for; only what is asked for is kept during a run."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], threads: int) -> None:
        import onnx

        extended = onnx.ModelProto()
        extended.CopyFrom(model)
        kinds = _kinds(model)
        present = {value.name for value in extended.graph.output}
        for name in dict.fromkeys(names):
            if name not in present and name in kinds:
                extended.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[name], None))
        self.names = {value.name for value in extended.graph.output} | {v.name for v in extended.graph.input}
        self._inputs = {value.name for value in extended.graph.input}
        with tempfile.TemporaryDirectory(prefix="optc-") as folder:
            onnx_format.save(extended, Path(folder))
            # Nothing is fused: fused kernels have no inner tensors, and rounding would move.
            self._session = onnx_format.inference_session(Path(folder), threads, "basic", configure=_unfused)

    def __call__(self, feeds: Feeds, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The named tensors of one inference."""
        asked = [name for name in names if name not in self._inputs]
        try:
            found = self._session.run(asked, dict(feeds)) if asked else []
        except onnx_format.ort_faults() as error:
            raise OptimizerError(
                f"the model does not run on the samples: {' '.join(str(error).split())[:300]}",
                "the data must have the shapes and types of the model's inputs; optc inspect shows them",
            ) from None
        return {**dict(zip(asked, found, strict=True)), **{n: feeds[n] for n in names if n in self._inputs}}


def _unfused(settings: Any) -> None:
    settings.add_session_config_entry("session.disable_quant_qdq", "1")


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that is known."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model) if model.ByteSize() < onnx_format.EXTERNAL_ABOVE else model
    return onnx_ready.types(inferred)


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    return {v.name: len(v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")}


def chunks(taps: Sequence[Tap], sizes: Mapping[str, int], budget: int) -> Iterator[list[Tap]]:
    """The taps in runs whose tensors together stay below `budget` bytes; a single larger one is alone."""
    current: list[Tap] = []
    held = 0
    for tap in taps:
        size = 3 * sizes.get(tap.name, 0)  # candidate, baseline and its integers
        if current and held + size > budget:
            yield current
            current, held = [], 0
        current.append(tap)
        held += size
    if current:
        yield current


def bounds(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Quantized tensor -> the ends of its type at which values are cut off.

    An end that stands for 0 is none: behind a Relu the zeros there are right.
    """
    import numpy as np
    from onnx import numpy_helper

    points = {t.name: t for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == QUANTIZE:
            stored = points.get(node.input[2]) if len(node.input) > 2 else None
            zero = numpy_helper.to_array(stored) if stored is not None else np.zeros(1, np.uint8)
            if zero.dtype.kind in "iu":
                ends = int(np.iinfo(zero.dtype).min), int(np.iinfo(zero.dtype).max)
                found[node.output[0]] = tuple(end for end in ends if not (zero == end).all())
    return found


class Tapping:
    """Candidate and baseline in ONNX, ready to give their tensors."""

    def __init__(self, candidate_: Artifact, baseline: Artifact, threads: int) -> None:
        self._signature = candidate_.signature
        self._model = candidate(candidate_)
        other = reference(baseline, self._model)
        self.taps: Sequence[Tap] = taps(self._model, other, paired(self._model, other))
        self.bounds: Mapping[str, tuple[int, ...]] = bounds(self._model)
        integers = [tap.integers for tap in self.taps if tap.integers]
        self._ours = Tapped(self._model, [*(tap.name for tap in self.taps), *integers], threads)
        self._theirs = Tapped(other, [tap.against for tap in self.taps], threads)

    def sizes(self, feeds: Feeds) -> Mapping[str, int]:
        """Bytes of each tensor; one of unknown shape is taken for as large as the largest that is known."""
        known = shapes(self._model, sizes_of(self._signature, feeds))
        found = {tap.name: 4 * prod(known[tap.name]) for tap in self.taps if tap.name in known}
        return {tap.name: found.get(tap.name, max(found.values(), default=1 << 24)) for tap in self.taps}

    def run(self, feeds: Feeds, chunk: Sequence[Tap]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        ours = [tap.name for tap in chunk] + [tap.integers for tap in chunk if tap.integers]
        wanted = [name for name in dict.fromkeys(ours) if name in self._ours.names]
        against = [name for name in dict.fromkeys(tap.against for tap in chunk) if name in self._theirs.names]
        return self._ours(feeds, wanted), self._theirs(feeds, against)
