"""ONNX -> a serialized engine with its facts, its log and its source beside it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer import cuda, disk, fingerprint, formats
from optimizer.errors import OptimizerError
from optimizer.formats import caution
from optimizer.formats import onnx as onnx_format
from optimizer.formats import tensorrt as tensorrt_format
from optimizer.formats.quiet import native
from optimizer.formats.tensorrt import facts as engine_facts
from optimizer.formats.tensorrt import flavour as flavours
from optimizer.formats.tensorrt import graph, layers, network, preflight, profiles
from optimizer.formats.tensorrt.flavour import Flavour
from optimizer.formats.tensorrt.layers import EngineLayer
from optimizer.formats.tensorrt.log import Log, listening, logger
from optimizer.formats.tensorrt.network import Parsed
from optimizer.formats.tensorrt.options import COMPILED, EngineOptions
from optimizer.formats.tensorrt.profiles import Profile
from optimizer.protocols import Context, Feeds
from optimizer.values import Artifact, Signature

MIB = 1 << 20


@dataclass(frozen=True)
class Reach:
    """Where an engine is to run, beyond the machine that it is built on."""

    capabilities: tuple[str, ...] = ()  # named compute capabilities (TensorRT-RTX)
    hardware: str = "same"  # same, same-compute-capability, ampere+ (TensorRT)
    later: bool = False  # with later versions of the library too (TensorRT)


def compile(
    flavour: Flavour,
    source: Artifact,
    options: EngineOptions,
    ctx: Context,
    out: Path,
    reach: Reach,
) -> None:
    """Build the engine of an ONNX artifact into `out`.

    Raises OptimizerError naming the node that is refused, the dimension without a range, the flag that this version of
    the library does not have, or what the builder says.
    """
    trt = flavours.library(flavour)
    if options.refit and flavour.builds_anywhere and not cuda.survey().gpus:
        raise OptimizerError(
            f"{flavour.title} builds an engine that can be refitted only on a GPU, and there is none here",
            "leave refit out, or build where a GPU is",
        )
    ranges = profiles.plan(source.signature, options.batches, options.dims, flavour.name)
    _require_samples(source.signature, ranges, ctx.samples, flavour)
    (out / tensorrt_format.SOURCE).mkdir()
    formats.hand_on("onnx", source.path, out / tensorrt_format.SOURCE)
    model = onnx_format.load(source.path)
    misread = preflight.misread(model)
    if misread:
        raise network.refused(f"{flavour.title} would refuse or misread the model", misread)
    sparse = graph.sparse(model)
    with listening(trt) as log:
        parsed = network.parse(trt, flavour, source.path / onnx_format.FILE, log, options.plugins)
        network.require_signature(parsed, source.signature, flavour)
        config = _configured(trt, parsed, options, sparse)
        _compatibility(trt, config, reach)
        _add_profiles(parsed, config, source.signature, ranges)
        with _timing_cache(flavour, config, ctx.caches), native() as aside:
            plan = parsed.builder.build_serialized_network(parsed.network, config)
        log.lines += [("warning", text) for text in aside]
        if plan is None:
            _forget(trt)
            raise _failed(trt, flavour, log)
    (out / tensorrt_format.FILE).write_bytes(plan)
    (out / tensorrt_format.LOG).write_text(log.text(), encoding="utf-8")
    found = _facts(trt, flavour, source, options, out, ranges, sparse, reach)
    engine_facts.save(found, out)
    inside = layers.built(log)
    layers.save(inside, out)
    _note(ctx, found, ranges, inside)
    if told := wide(found, inside):
        ctx.warn(told)


def _require_samples(signature: Signature, ranges: Sequence[Profile], samples: Sequence[Feeds], by: Flavour) -> None:
    """The samples that this build was given must be runnable: better now than on the GPU."""
    for feeds in samples if ranges else ():
        shapes = {name: tuple(array.shape) for name, array in feeds.items()}
        try:
            profiles.choose(ranges, profiles.sizes(signature, shapes), by.name)
        except OptimizerError as error:
            raise OptimizerError(
                f"the samples that the engine is checked with do not fit it: {error.message}", error.hint
            ) from None


def _configured(trt: Any, parsed: Parsed, options: EngineOptions, sparse: Sequence[str]) -> Any:
    """The builder's configuration. Precision is none of it: it is in the graph."""
    config = parsed.builder.create_builder_config()
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names and types of layers stay in the engine
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    wanted = {
        "TF32": options.tf32,
        "SPARSE_WEIGHTS": bool(sparse) if options.sparse is None else options.sparse,
        "REFIT": options.refit,
        "WEIGHT_STREAMING": options.weight_streaming,
    }
    for name, value in wanted.items():
        _set_flag(trt, config, name, value)
    return config


def _set_flag(trt: Any, config: Any, name: str, value: bool) -> None:
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is None:
        if value:
            option = name.lower().replace("sparse_weights", "sparse")
            raise OptimizerError(
                f"{trt.__name__} {trt.__version__} has no builder flag {name}, which the option {option} sets",
                f"leave {option} out, or use another version",
            )
    elif value:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)


def _compatibility(trt: Any, config: Any, reach: Reach) -> None:
    """On which GPUs the engine will run: named ones (RTX), or more than the one it is built on (TensorRT)."""
    _set_flag(trt, config, "VERSION_COMPATIBLE", reach.later)
    if reach.capabilities:
        config.num_compute_capabilities = len(reach.capabilities)
        for place, capability in enumerate(reach.capabilities):
            name = f"SM{capability.replace('.', '')}"
            found = getattr(trt.ComputeCapability, name, None)
            if found is None:
                known = [n for n in dir(trt.ComputeCapability) if n.startswith("SM")]
                raise OptimizerError(
                    f"{trt.__name__} {trt.__version__} does not build for compute capability {capability}",
                    f"it knows {', '.join(f'{n[2:-1]}.{n[-1]}' for n in known)}",
                )
            config.set_compute_capability(found, place)
    if reach.hardware != "same":
        name = reach.hardware.upper().replace("-", "_").replace("+", "_PLUS")
        level = getattr(trt.HardwareCompatibilityLevel, name, None)
        if level is None:
            raise OptimizerError(
                f"{trt.__name__} {trt.__version__} knows no hardware compatibility '{reach.hardware}'",
                "leave the option hardware out, or use a later version",
            )
        config.hardware_compatibility_level = level


def _add_profiles(parsed: Parsed, config: Any, signature: Signature, ranges: Sequence[Profile]) -> None:
    specs = {spec.name: spec for spec in signature.inputs}
    for found in ranges:
        profile = parsed.builder.create_optimization_profile()
        for tensor in network.inputs(parsed.network):
            spec = specs[tensor.name]
            if any(isinstance(dim, str) for dim in spec.shape):
                profile.set_shape(tensor.name, *found.shapes(spec))
        config.add_optimization_profile(profile)


@contextlib.contextmanager
def _timing_cache(flavour: Flavour, config: Any, folder: Path | None) -> Iterator[None]:
    """What this GPU took for kernels before, kept in the store by GPU, driver and version; other builds may add to it.

    TensorRT-RTX times nothing: its cache would ask for a GPU and change nothing (release notes of 1.1).
    """
    if flavour.builds_anywhere or folder is None:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{cache_name(flavour)}.timing"
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    with file.with_suffix(".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        merged = config.get_timing_cache()
        if file.is_file():  # what another build has added meanwhile
            merged.combine(config.create_timing_cache(file.read_bytes()), ignore_mismatch=False)
        disk.write_atomically(file, bytes(merged.serialize()))


def cache_name(flavour: Flavour) -> str:
    """A file name for what depends on GPU, driver and version of the library."""
    found = cuda.survey()
    gpu = found.gpus[0] if found.gpus else None
    ingredients = [flavour.name, flavour.version(), found.driver, gpu.name if gpu else None, gpu and gpu.capability]
    return f"{flavour.name}-{fingerprint.of_value(ingredients)[:16]}"


def _facts(
    trt: Any,
    flavour: Flavour,
    source: Artifact,
    options: EngineOptions,
    out: Path,
    ranges: Sequence[Profile],
    sparse: Sequence[str],
    reach: Reach,
) -> engine_facts.Facts:
    plan = out / tensorrt_format.FILE
    model = onnx_format.load(source.path)
    quantized, products = graph.quantized(model)
    on = _built_on(flavour)
    pairs = "fp8" if onnx_format.holds_float8(source.path / onnx_format.FILE) else "int8"
    # Where none is named, TensorRT-RTX leaves out those that lack a type of the graph, without a word.
    usual = tuple(found for found in flavour.usual if pairs not in flavours.lacking(found))
    capabilities = reach.capabilities or ((on.capability,) if on else usual)
    return engine_facts.Facts(
        flavour=flavour.name,
        version=str(trt.__version__),
        distribution=flavour.tools()[0],
        capabilities=capabilities,
        newer=flavour.builds_anywhere and not reach.capabilities,
        hardware=reach.hardware,
        version_compatible=reach.later,
        built_on=on,
        profiles=tuple(dict(found.ranges) for found in ranges),
        types=graph.types(model),
        quantized=quantized,
        products=products,
        pairs=pairs,
        tf32=options.tf32,
        sparse=tuple(sparse),
        refit=options.refit,
        weight_streaming=options.weight_streaming,
        plugins={path.name: fingerprint.of_file(path) for path in options.plugins},
        options=portable(options),
        plan=engine_facts.Plan(size=plan.stat().st_size, sha256=fingerprint.of_file(plan)),
    )


def portable(options: EngineOptions) -> dict[str, Any]:
    """The options that decide the files, without local paths: enough to build the engine again elsewhere."""
    return {name: value for name, value in options.model_dump(mode="json").items() if name in COMPILED[:-1]}


def _built_on(flavour: Flavour) -> engine_facts.BuiltOn | None:
    found = cuda.survey()
    if flavour.builds_anywhere or not found.gpus:
        return None
    return engine_facts.BuiltOn(
        gpu=found.gpus[0].name, capability=found.gpus[0].capability, driver=found.driver or "unknown"
    )


def _forget(trt: Any) -> None:
    """Build something tiny: what follows a failed build in a process is compiled for the GPUs of that one.

    TensorRT-RTX 1.7.1: an engine for 8.9 behind a build that failed for 7.5 has 7.5's products, without a word.
    """
    builder = trt.Builder(logger(trt))
    tiny = builder.create_network(network.typed(trt))
    tiny.mark_output(tiny.add_identity(tiny.add_input("x", trt.float32, (1,))).get_output(0))
    builder.build_serialized_network(tiny, builder.create_builder_config())


def _failed(trt: Any, flavour: Flavour, log: Log) -> OptimizerError:
    """The builder returned nothing: its last errors say why."""
    reason = log.reason()
    hint = network.way_out([network.Refusal("", "", reason)])
    if "hw-specific datatypes" in reason.lower():
        first = ", ".join(f"{name} from {found} on" for name, found in flavours.TYPED.items())
        hint = f"of these compute capabilities one lacks a type of the graph ({first}): name others in capabilities"
    elif "turing" in reason.lower():
        hint = "compute capability 7.5 has no such kernel: use the half step, or leave 7.5 out of capabilities"
    elif any(word in reason.lower() for word in ("memory", "workspace")):
        hint = "give it more room (option workspace), smaller dims, or a GPU with more memory"
    return OptimizerError(f"{flavour.title} {trt.__version__} cannot build the engine: {reason}", hint)


def wide(facts: engine_facts.Facts, inside: Sequence[EngineLayer]) -> str | None:
    """A caution where most products that have Q/DQ pairs do not multiply in 8 bits in the engine; else None.

    Shares are compared, since an engine may compute several products in one layer. None, too, where the layers are
    not known.
    """
    types = layers.counts(inside)
    narrow, total = sum(types.get(name, 0) for name in layers.NARROW), sum(types.values())
    if not total or narrow * facts.products >= caution.SMALL * facts.quantized * total:
        return None
    others = " and ".join(name for name in types if name not in layers.NARROW)
    where = f"{', '.join(facts.capabilities)}{' and newer' if facts.newer else ''}"
    return (
        f"for compute capability {where}, {narrow} of {total} convolutions and matrix products multiply in 8 bits, "
        f"though {facts.quantized} of {facts.products} in the graph have Q/DQ pairs; the others run in {others}, where "
        "pairs cost time and gain none"
    )


def _note(ctx: Context, facts: engine_facts.Facts, ranges: Sequence[Profile], inside: Sequence[EngineLayer]) -> None:
    notes: Mapping[str, Any] = {
        "engine": f"{facts.flavour} {facts.version}",
        "capabilities": list(facts.capabilities),
        "profiles": [str(found) for found in ranges],
        "precision": layers.describe(inside) or facts.precision(),
        "layers": len(inside),
        "products": layers.counts(inside),
        "reformats": [layer.name for layer in inside if layer.reformat],
        "sparse": list(facts.sparse),
    }
    for name, value in notes.items():
        ctx.note(name, value)
