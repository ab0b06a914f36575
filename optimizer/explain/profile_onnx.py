"""ONNX Runtime's session profiler: every kernel's time, joined to the nodes of the graph that it was made of."""

from __future__ import annotations

import functools
import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from optimizer.anatomy import macs
from optimizer.anatomy.onnx import shapes
from optimizer.explain import unfused
from optimizer.explain.kernels import ITEM, Kernel, Kind, Profiled, inferences
from optimizer.formats import onnx as onnx_format
from optimizer.formats.feeds import sizes_of
from optimizer.protocols import Feeds
from optimizer.targets import onnxruntime as target
from optimizer.values import Artifact, Machine

if TYPE_CHECKING:
    import onnx
    import onnxruntime

SUFFIX = "_kernel_time"
WARMUP = 3
CONVERT = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"))
REORDER = frozenset(("ReorderInput", "ReorderOutput"))
INTEGERS = ("int8", "uint8")
MOVES = frozenset((
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Split", "Concat", "Gather", "Shape", "Expand",
    "Pad", "Identity", "Range", "ConstantOfShape", "Where", "Equal", "Tile",
))  # fmt: skip
TYPES = {"float": "float32", "double": "float64"}
BLOCKED = "com.microsoft.nchwc"  # operators whose channels are padded to whole blocks
ALIASES = {"NhwcFusedConv": "FusedConv", "DynamicQuantizeLSTM": "LSTM"}
# What MLAS takes for u8 x s8 products, the best first (onnxruntime/core/mlas/lib/platform.cpp).
MLAS_INT8 = (
    ("amx_int8", "AMX int8 tiles"),
    ("avx512_vnni", "AVX512-VNNI"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512bw", "AVX512 without VNNI (pairs of products saturate at 16 bits)"),
    ("avx2", "AVX2 without VNNI (pairs of products saturate at 16 bits)"),
    ("i8mm", "NEON i8mm"),
    ("asimddp", "NEON dot product"),
)
MLAS_FLOAT = (("avx512f", "AVX512F"), ("fma", "AVX2 with FMA"), ("avx", "AVX"), ("asimd", "NEON"))


def profile(artifact: Artifact, options: Any, feeds: Feeds, machine: Machine, budget: float) -> Profiled:
    """Profile inferences on `feeds` for about `budget` seconds; half of them with the profiler off."""
    with tempfile.TemporaryDirectory(prefix="optc-") as folder:
        plain = _session(artifact, options, None)
        each = _timed(plain, feeds, WARMUP)
        original = onnx_format.parse(artifact.path / onnx_format.FILE)
        runs = inferences(median(each), budget / 2, len(original.graph.node))
        plain_ms = 1000 * median(_timed(plain, feeds, runs))
        del plain
        session = _session(artifact, options, Path(folder))
        _timed(session, feeds, WARMUP + runs)
        events = json.loads(Path(session.end_profiling()).read_bytes())
        optimized = onnx_format.load(Path(folder))
    sizes = sizes_of(artifact.signature, feeds)
    kernels = parse(events, Joined(original, optimized, sizes), machine, runs)
    whole = [e["dur"] / 1000 for e in events if e.get("name") == "model_run"][-runs:]
    return Profiled(
        kernels=kernels,
        profiled_ms=median(whole),
        plain_ms=plain_ms,
        runs=runs,
        findings=tuple(unfused.sentences(optimized, {k.name: k.ms for k in kernels}, median(whole))),
        sizes=sizes,
    )


def _session(artifact: Artifact, options: Any, folder: Path | None) -> onnxruntime.InferenceSession:
    def configure(settings: onnxruntime.SessionOptions) -> None:
        if folder:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(folder / "profile")
            settings.optimized_model_filepath = str(folder / onnx_format.FILE)
            if artifact.size > onnx_format.EXTERNAL_ABOVE:
                entry = "session.optimized_model_external_initializers_file_name"
                settings.add_session_config_entry(entry, onnx_format.DATA)

    return target.loaded(artifact.path, options, configure)


def _timed(session: onnxruntime.InferenceSession, feeds: Feeds, runs: int) -> list[float]:
    """Seconds of each of `runs` inferences."""
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        session.run(None, dict(feeds))
        found.append(time.perf_counter() - begin)
    return found


class Joined:
    """The stored graph and the one that ONNX Runtime made of it, joined by names."""

    def __init__(self, original: onnx.ModelProto, optimized: onnx.ModelProto, sizes: Mapping[str, int]) -> None:
        self.covers = covers(original, optimized)
        self.nodes = {node.name: node for node in optimized.graph.node}
        self.stored = {node.name: node for node in original.graph.node}
        self.constants = {t.name: _stored(t) for t in optimized.graph.initializer}
        self._shapes = shapes(original, sizes)

    def macs(self, name: str) -> int | None:
        """The multiplications of the stored nodes behind a kernel."""
        found = [macs.count(self.stored[n], self._shapes) for n in self.covers.get(name, ()) if n in self.stored]
        return None if None in found else sum(f or 0 for f in found)

    def title(self, name: str, multiplies: bool) -> str:
        """The stored node that a kernel is called after: its own, else the one that multiplies, else the last."""
        behind = self.covers.get(name, ())
        if name in self.stored or not behind:
            return name
        products = [n for n in behind if self.stored[n].op_type in macs.RULES] if multiplies else []
        return (products or list(behind))[0]


def parse(events: list[dict[str, Any]], graphs: Joined, machine: Machine, runs: int) -> tuple[Kernel, ...]:
    """The kernels in the profiler's events, their last `runs` times each."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    described: dict[str, dict[str, Any]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(SUFFIX):
            name = name.removesuffix(SUFFIX)
            times[name].append(event["dur"] / 1000)
            described[name] = event["args"]
    return tuple(
        _kernel(Seen(name, described[name], graphs.nodes.get(name), graphs.constants), taken[-runs:], graphs, machine)
        for name, taken in times.items()
    )


Tensor = tuple[str, tuple[int, ...]]
"""dtype and shape."""


@dataclass(frozen=True)
class Seen:
    """What the profiler and the optimized graph together say of one kernel."""

    name: str
    args: Mapping[str, Any]
    node: Any  # None for a kernel that is in no graph
    constants: Mapping[str, Tensor]

    @property
    def op(self) -> str:
        return str(self.args["op_name"])

    @property
    def outputs(self) -> list[Tensor]:
        return _tensors(self.args.get("output_type_shape"))

    @functools.cached_property
    def inputs(self) -> list[Tensor]:
        """One entry per input of the node, where there is one.

        The profiler leaves out weights that were packed anew when the session was made: those come from the graph.
        """
        reported = _tensors(self.args.get("input_type_shape"))
        if self.node is None:
            return reported
        found: list[Tensor] = []
        for name in self.node.input:
            constant = self.constants.get(name)
            if not name:
                found.append(("", ()))
            elif constant and (not reported or reported[0] != constant):
                found.append(constant)
            else:
                found.append(reported.pop(0) if reported else ("", ()))
        return found


def _stored(tensor: Any) -> Tensor:
    import onnx

    name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    return TYPES.get(name, name), tuple(tensor.dims)


def _kernel(seen: Seen, times: list[float], graphs: Joined, machine: Machine) -> Kernel:
    inputs, outputs = seen.inputs, seen.outputs
    kind = _kind(seen.op, inputs, seen.name in graphs.stored)
    blocked = seen.node is not None and seen.node.domain == BLOCKED
    count = 0 if kind == "layout" else graphs.macs(seen.name) if blocked else _macs(seen)
    return Kernel(
        name=seen.name if kind == "layout" else graphs.title(seen.name, bool(count)),
        op=seen.op,
        kind=kind,
        dtype="int8" if kind == "quantized" else inputs[0][0] if inputs else "",
        times=times,
        implementation=_implementation(str(seen.args.get("provider", "")), kind, bool(count), machine),
        macs=count,
        bytes=sum(ITEM.get(dtype, 0) * prod(shape) for dtype, shape in (*inputs, *outputs)),
        covers=graphs.covers.get(seen.name, ()),
    )


def _tensors(described: Any) -> list[Tensor]:
    """The tensors in the profiler's words."""
    found: list[Tensor] = []
    for entry in described or []:
        name, shape = next(iter(entry.items()), ("", []))
        found.append((TYPES.get(name, name), tuple(shape)))
    return found


def _kind(op: str, inputs: list[Tensor], stored: bool) -> Kind:
    if op in CONVERT:
        return "convert"
    if op in REORDER or (op == "Transpose" and not stored):
        return "layout"
    if op in MOVES:
        return "other"
    kinds = [dtype for dtype, _ in inputs]
    if op.startswith("QLinear") or any(kind in INTEGERS for kind in kinds):
        return "quantized"
    return "float" if any(kind.startswith(("float", "bfloat")) for kind in kinds) else "other"


def _macs(seen: Seen) -> int | None:
    node = seen.node
    if node is None:
        return 0
    shapes = {name: shape for name, (_, shape) in zip(node.input, seen.inputs, strict=False) if name}
    shapes |= {name: shape for name, (_, shape) in zip([o for o in node.output if o], seen.outputs, strict=False)}
    known = SimpleNamespace(
        op_type=ALIASES.get(seen.op, seen.op), input=node.input, output=node.output, attribute=node.attribute
    )
    try:
        return macs.count(known, shapes)
    except IndexError:  # an operator of a custom domain that only shares the name
        return None


def _implementation(provider: str, kind: Kind, multiplies: bool, machine: Machine) -> str:
    """The provider, and for products the ISA that MLAS takes on this CPU: deduced, its profiler does not say."""
    short = provider.removesuffix("ExecutionProvider")
    if not multiplies:
        return short
    isa = mlas(machine, kind == "quantized")
    return f"{short}, MLAS {isa} (deduced)" if isa else short


def mlas(machine: Machine, integers: bool) -> str | None:
    """The instructions that MLAS takes for matrix products on a machine, by its documented order of choice."""
    return next((text for flag, text in (MLAS_INT8 if integers else MLAS_FLOAT) if flag in machine.isa), None)


def covers(original: onnx.ModelProto, optimized: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Optimized node -> the original nodes between its outputs and its inputs, the last first, by names of values.

    A fused node keeps the name of its last output; moved to channels-last or to blocks, it is named after it
    or after the node that made it.
    """
    maker = {out: node for node in original.graph.node for out in node.output}
    named = {node.name: node for node in original.graph.node if node.name}
    found: dict[str, tuple[str, ...]] = {}
    for node in optimized.graph.node:
        ends = [maker[o] for o in map(_plain, (*node.output, node.name)) if o in maker][:1]
        ends = ends or [named[n] for n in (node.name, _plain(node.name)) if n in named][:1]
        found[node.name] = tuple(_between(ends, {_plain(name) for name in node.input}, maker))
    return found


def _plain(name: str) -> str:
    """The name of a value or node before ONNX Runtime moved it to another layout."""
    return re.sub(r"(_token_\d+|_nchwc)$", "", name)


def _between(ends: list[Any], stop: set[str], maker: Mapping[str, Any]) -> list[str]:
    seen: dict[str, None] = {}
    queue = list(ends)
    while queue and len(seen) < 200:
        node = queue.pop()
        if node.name in seen:
            continue
        seen[node.name] = None
        reached = any(name in stop for name in node.input)
        queue.extend(maker[n] for n in node.input if n in maker and n not in stop and not reached)
    return list(seen)
