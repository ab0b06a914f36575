"""A serialized engine opened: refused with the reason where its facts do not fit this machine or this library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from optimizer import cuda
from optimizer.errors import OptimizerError
from optimizer.formats import tensorrt as tensorrt_format
from optimizer.formats.tensorrt import facts as engine_facts
from optimizer.formats.tensorrt import flavour as flavours
from optimizer.formats.tensorrt.facts import Facts
from optimizer.formats.tensorrt.flavour import Flavour
from optimizer.formats.tensorrt.log import Log, logger

REBUILD = "build it for this machine from the ONNX model beside it: optc rebuild"


def misfit(facts: Facts, flavour: Flavour, version: str | None, gpu: cuda.Gpu | None) -> str | None:
    """Why an engine with these facts cannot run with this version of the library on this GPU, or None.

    `gpu` None leaves the hardware out of it.
    """
    if facts.flavour != flavour.name:
        return f"it was built by {flavours.FLAVOURS[facts.flavour].title}, not by {flavour.title}"
    if version is not None and not _same(facts, version):
        return f"it was built by {flavour.title} {facts.version}, {version} is installed"
    if gpu is None or gpu.capability in facts.capabilities or (facts.newer and _newer(gpu, facts)):
        return _other_gpu(facts, gpu)
    built = f"{', '.join(facts.capabilities)}{' and newer' if facts.newer else ''}"
    if facts.hardware != "same" and _ampere(gpu):
        return None
    return f"it was built for compute capability {built}, {gpu.name} has {gpu.capability}"


def _same(facts: Facts, version: str) -> bool:
    """Whether a version of the library opens the engine: the very same, or a later one of the same major number."""
    if facts.version_compatible:
        ours, theirs = (tuple(map(int, text.split(".")[:2])) for text in (version, facts.version))
        return ours[0] == theirs[0] and ours >= theirs
    return version == facts.version


def _newer(gpu: cuda.Gpu, facts: Facts) -> bool:
    newest = max(tuple(map(int, found.split("."))) for found in facts.capabilities)
    return tuple(map(int, gpu.capability.split("."))) > newest


def _ampere(gpu: cuda.Gpu) -> bool:
    return int(gpu.capability.partition(".")[0]) >= 8


def _other_gpu(facts: Facts, gpu: cuda.Gpu | None) -> str | None:
    """An engine whose kernels were timed on one GPU belongs to GPUs of that name, unless it was built for more."""
    if gpu is None or facts.built_on is None or facts.hardware != "same" or facts.built_on.gpu == gpu.name:
        return None
    return f"its kernels were chosen on {facts.built_on.gpu}, this is {gpu.name}"


def require(path: Path, flavour: Flavour, device: int | None) -> Facts:
    """The facts of the engine in `path`, which is not cut off and fits library and GPU; else OptimizerError."""
    facts = engine_facts.load(path)
    engine_facts.check_size(path / tensorrt_format.FILE, facts)
    gpu = _gpu(device) if device is not None else None
    reason = misfit(facts, flavour, str(flavours.library(flavour).__version__), gpu)
    if reason:
        raise OptimizerError(f"the engine in {path} does not run here: {reason}", REBUILD)
    return facts


def _gpu(device: int) -> cuda.Gpu:
    gpus = cuda.survey().gpus
    if device >= len(gpus):
        raise OptimizerError(
            f"there is no GPU {device}; this machine has {len(gpus)}", "choose one with the option device"
        )
    return gpus[device]


def deserialize(trt: Any, flavour: Flavour, path: Path, log: Log) -> tuple[Any, Any]:
    """Runtime and engine of the plan in `path`; the runtime must live as long. Raises OptimizerError when refused."""
    runtime = trt.Runtime(logger(trt))
    engine = runtime.deserialize_cuda_engine((path / tensorrt_format.FILE).read_bytes())
    if engine is None:
        raise OptimizerError(f"{flavour.title} cannot open {path / tensorrt_format.FILE}: {log.reason()}", REBUILD)
    return runtime, engine
