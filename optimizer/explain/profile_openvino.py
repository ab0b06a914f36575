"""OpenVINO's performance counters, joined to the layers of the IR through its runtime model."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Any

from optimizer.anatomy import openvino as anatomy
from optimizer.explain.kernels import ITEM, Kernel, Kind, Profiled, inferences
from optimizer.formats import openvino as openvino_format
from optimizer.formats.feeds import sizes_of
from optimizer.protocols import Feeds
from optimizer.targets import openvino as target
from optimizer.values import Artifact, Machine

if TYPE_CHECKING:
    import openvino

WARMUP = 3
CONVERT = ("Convert", "FakeQuantize")
LAYOUT = ("Reorder",)
INTEGERS = ("i8", "u8")
FLOATS = ("f32", "bf16", "f16")
ARITHMETIC = (*target.COUNTED, "Eltwise", "Pooling", "Reduce", "Softmax", "SoftMax", "MVN", "Subgraph", "Interpolate")


def profile(artifact: Artifact, options: Any, feeds: Feeds, machine: Machine, budget: float) -> Profiled:  # noqa: ARG001  # the signature of every profiler
    """Profile inferences on `feeds` for about `budget` seconds; half of them with the counters off."""
    model = compiled(artifact, options, feeds, counters=False)
    plain = model.create_infer_request()
    each = [_timed(plain, feeds) for _ in range(WARMUP)]
    runs = inferences(median(each), budget / 2, len(runtime_layers(model)))
    plain_ms = 1000 * median([_timed(plain, feeds) for _ in range(runs)])
    del plain, model
    model = compiled(artifact, options, feeds, counters=True)
    request = model.create_infer_request()
    for _ in range(WARMUP):
        _timed(request, feeds)
    whole, times = [], defaultdict[str, list[float]](list)
    executed: dict[str, tuple[str, str]] = {}
    for _ in range(runs):
        whole.append(1000 * _timed(request, feeds))
        for info in request.profiling_info:
            if str(info.status).endswith("EXECUTED"):
                times[info.node_name].append(info.real_time.total_seconds() * 1000)
                executed[info.node_name] = (str(info.node_type), str(info.exec_type))
    sizes = sizes_of(artifact.signature, feeds)
    kernels = parse(times, executed, runtime_layers(model), Layers(artifact, feeds))
    return Profiled(kernels, median(whole), plain_ms, runs, tuple(_findings(kernels)), sizes)


def compiled(artifact: Artifact, options: Any, feeds: Feeds, counters: bool) -> openvino.CompiledModel:
    """The artifact compiled as the target does for these inputs, with or without performance counters."""
    own = target.narrowed(artifact.path, feeds) if options.static_shapes else None
    config = {**target.configuration(artifact.path, options), "PERF_COUNT": counters}
    return openvino_format.compiled(openvino_format.load(artifact.path) if own is None else own, config)


def _timed(request: Any, feeds: Feeds) -> float:
    begin = time.perf_counter()
    request.infer(dict(feeds), share_inputs=True)
    return time.perf_counter() - begin


def runtime_layers(model: openvino.CompiledModel) -> dict[str, dict[str, str]]:
    """Name -> what the compiled model says of a layer: types, layouts, the layers it was made of."""
    return {
        op.get_friendly_name(): {key: str(value.astype(str)) for key, value in op.get_rt_info().items()}
        for op in model.get_runtime_model().get_ops()
    }


class Layers:
    """Multiplications and sizes of the layers of an IR at the sizes of some feeds."""

    def __init__(self, artifact: Artifact, feeds: Feeds) -> None:
        model = openvino_format.load(artifact.path)
        names = [spec.name for spec in openvino_format.signature(model).inputs]
        model.reshape({port: list(feeds[name].shape) for port, name in zip(model.inputs, names, strict=True)})
        self._ops = {op.get_friendly_name(): op for op in model.get_ops()}

    def macs(self, names: list[str], product: bool) -> int | None:
        """The sum over the named layers; 0 when none multiplies, None when one has an unknown shape.

        A `product` may be named after the bias that was fused into it alone: then what that reads is counted.
        """
        own = [self._ops[n] for n in names if n in self._ops]
        found = [anatomy.multiplications(op) for op in own]
        if product and not any(found) and None not in found:
            read = [port.get_source_output().get_node() for op in own for port in op.inputs()]
            found = [anatomy.multiplications(op) for op in read]
        return None if None in found else sum(f or 0 for f in found)

    def elements(self, names: list[str]) -> tuple[int, int] | None:
        """Values that the named layers together read from outside and write to outside; None where unknown."""
        own = [self._ops[n] for n in names if n in self._ops]
        if not own or any(p.get_partial_shape().is_dynamic for op in own for p in (*op.inputs(), *op.outputs())):
            return None
        inside = {op.get_friendly_name() for op in own}
        read = sum(
            prod(port.get_shape())
            for op in own
            for port in op.inputs()
            if port.get_source_output().get_node().get_friendly_name() not in inside
        )
        written = sum(
            prod(port.get_shape())
            for op in own
            for port in op.outputs()
            if any(t.get_node().get_friendly_name() not in inside for t in port.get_target_inputs())
        )
        return read, written


def parse(
    times: Mapping[str, list[float]],
    executed: Mapping[str, tuple[str, str]],
    layers: Mapping[str, Mapping[str, str]],
    sizes: Layers,
) -> tuple[Kernel, ...]:
    """The kernels that ran, with the layers of the IR that each stands for."""
    return tuple(_kernel(name, times[name], executed[name], layers.get(name, {}), sizes) for name in times)


def _kernel(name: str, times: list[float], executed: tuple[str, str], info: Mapping[str, str], sizes: Layers) -> Kernel:
    covers = tuple(n for n in info.get("originalLayersNames", "").split(",") if n)
    # Without suffix: the weight's scale was moved behind the product, whose layer is named after it.
    own = [*dict.fromkeys((*covers, name, *(n.removesuffix("/DequantizationMultiply") for n in (*covers, name))))]
    precision = info.get("runtimePrecision") or executed[1].rpartition("_")[2].lower()
    layer = info.get("layerType", executed[0])
    kind = _kind(layer, precision)
    elements = sizes.elements(own)
    out = info.get("outputPrecisions", precision).split(",")[0]
    return Kernel(
        name=name,
        op=executed[0],
        kind=kind,
        dtype="int8" if kind == "quantized" else openvino_format.TYPES.get(precision, precision),
        times=times,
        implementation=info.get("primitiveType", executed[1]),
        macs=sizes.macs(own, layer in target.COUNTED),
        bytes=elements[0] * _item(precision) + elements[1] * _item(out) if elements else None,
        covers=covers,
    )


def _item(precision: str) -> int:
    return ITEM.get(openvino_format.TYPES.get(precision, precision), 4)


def _kind(layer: str, precision: str) -> Kind:
    if layer in CONVERT:
        return "convert"
    if layer in LAYOUT:
        return "layout"
    if layer in ARITHMETIC:
        return "quantized" if precision in INTEGERS else "float"
    return "float" if precision in FLOATS and layer not in ("Input", "Output", "Reshape", "Concatenation") else "other"


def _findings(kernels: tuple[Kernel, ...]) -> list[str]:
    """Sentences about reference kernels, which are slow on purpose."""
    slow = [k for k in kernels if k.implementation.startswith("ref")]
    if not slow:
        return []
    names = ", ".join(f"{k.op} '{k.name}'" for k in slow[:4])
    return [f"{len(slow)} reference kernels ran ({slow[0].implementation}), which use no vector instructions: {names}"]
