"""ONNX Runtime's execution providers for NVIDIA GPUs: what they lack here, sessions on them, what they left to the CPU.

ONNX Runtime gives every node that a provider does not take to the CPU, and the whole model when the provider cannot be
loaded, both without an error (Execution Providers, ONNX Runtime documentation). Here the first is told and the second
is refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from optimizer import cuda, machine, store
from optimizer.errors import OptimizerError, elsewhere
from optimizer.formats import onnx as onnx_format
from optimizer.formats import quiet
from optimizer.formats.tensorrt import flavour

if TYPE_CHECKING:
    import onnxruntime

Name = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
(CPU,) = onnx_format.ON_CPU
COPIES = frozenset(("MemcpyFromHost", "MemcpyToHost"))  # nodes that the runtime puts between two devices
KERNEL = "_kernel_time"  # how a profile calls the run of a node


@dataclass(frozen=True)
class Provider:
    """One provider: ONNX Runtime's name for it, and what brings it."""

    title: str
    registered: str
    distribution: str  # of ONNX Runtime
    plugin: str = ""  # the module, and with hyphens the distribution, that brings it to any ONNX Runtime

    @property
    def needs(self) -> tuple[str, ...]:
        """Further distributions."""
        return (self.plugin.replace("_", "-"),) if self.plugin else ()

    @property
    def install(self) -> str:
        """How to get it."""
        if self.plugin:
            return f"pip install {self.needs[0]}"
        return f"pip uninstall onnxruntime, then pip install {self.distribution}"

    def present(self) -> bool:
        """Whether what brings it is installed; it may still fail to load."""
        if self.plugin:
            return importlib.util.find_spec(self.plugin) is not None
        return machine.version_of(self.distribution) is not None


PROVIDERS: Mapping[str, Provider] = {
    "cuda": Provider("CUDA", "CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": Provider("TensorRT", "TensorrtExecutionProvider", "onnxruntime-gpu"),
    "tensorrt-rtx": Provider(
        "TensorRT-RTX", "NvTensorRTRTXExecutionProvider", "onnxruntime", "onnxruntime_ep_nv_tensorrt_rtx"
    ),
}
FLAVOURS = {"tensorrt": flavour.TENSORRT, "tensorrt-rtx": flavour.RTX}  # providers that build engines
KINDS = {"float16": "trt_fp16_enable", "bfloat16": "trt_bf16_enable", "int8": "trt_int8_enable"}
ELSEWHERE = {PROVIDERS["cuda"].registered: "CUDA", CPU: "the CPU"}


def lacking(name: str, device: int) -> str | None:
    """Why no session with a provider can run on GPU `device` of this machine and how to get there, or None."""
    if name not in PROVIDERS:
        return None
    provider, found = PROVIDERS[name], cuda.survey()
    if found.reason is not None:
        return f"ONNX Runtime's {provider.title} provider runs on an NVIDIA GPU: {found.reason}"
    if device >= len(found.gpus):
        return f"there is no GPU {device}; this machine has {len(found.gpus)}, counted from 0"
    gpu = found.gpus[device]
    if name == "tensorrt-rtx" and not flavour.supported(flavour.RTX, gpu.capability):
        return (
            f"TensorRT-RTX does not run on {gpu.name} (compute capability {gpu.capability}); use another GPU, or "
            "provider: cuda"
        )
    return None if provider.present() else f"the {provider.title} provider is not installed; {provider.install}"


def runs_on(name: str, device: int) -> dict[str, str | None]:
    """What of this machine decides the numbers beside its CPU: GPU, driver, version of the provider."""
    if name not in PROVIDERS:
        return {}
    needs = (PROVIDERS[name].distribution, *PROVIDERS[name].needs)
    return {**flavour.runs_on(device), **{need: machine.version_of(need) for need in needs}}


@dataclass(frozen=True)
class Wanted:
    """How a session is to run on a GPU."""

    name: str
    device: int
    tf32: bool
    fallback: bool  # whether nodes may be left to the CPU


def session(
    wanted: Wanted,
    types: str,
    open: Callable[..., onnxruntime.InferenceSession],
    configure: Callable[[onnxruntime.SessionOptions], None],
) -> onnxruntime.InferenceSession:
    """A session that really runs on the GPU: `open` with the provider, for a graph of `types` (`formats.onnx.typed`).

    Raises OptimizerError when nothing can run here, when the provider cannot be loaded, or when nodes would be left to
    the CPU although `wanted` forbids it.
    """
    provider, reason = PROVIDERS[wanted.name], lacking(wanted.name, wanted.device)
    if reason:
        raise elsewhere("the model", reason)
    chosen = _options(wanted, types)
    device = _plugged(provider, wanted.device) if provider.plugin else None
    if device is None:
        _preload()

    def configured(settings: onnxruntime.SessionOptions) -> None:
        configure(settings)
        if not wanted.fallback:
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if device is not None:
            settings.add_provider_for_devices([device], chosen[0][1])

    try:
        found = open(configure=configured, providers=None if device is not None else chosen)
    except RuntimeError as error:  # what ONNX Runtime raises where TensorRT's own libraries are missing
        raise _unloaded(provider, " ".join(str(error).split())[:300]) from None
    if provider.registered not in found.get_providers():
        raise _unloaded(provider, "the whole model would have run on the CPU")
    return found


def _options(wanted: Wanted, types: str) -> list[tuple[str, dict[str, str]]]:
    """The providers to try in turn with their options: what TensorRT does not take goes to CUDA, the rest to the CPU.

    Nothing that rounds is left to a default: the CUDA provider would round float32 factors to 10 bits (TF32).
    """
    place, caches = {"device_id": str(wanted.device)}, store.default_root() / "caches"
    on_cuda = (PROVIDERS["cuda"].registered, {**place, "use_tf32": str(int(wanted.tf32))})
    if wanted.name == "cuda":
        return [on_cuda]
    folder = caches / f"onnxruntime-{wanted.name}"
    folder.mkdir(parents=True, exist_ok=True)
    if wanted.name == "tensorrt-rtx":
        return [(PROVIDERS[wanted.name].registered, {"nv_runtime_cache_path": str(folder)})]
    options = {  # engines are built when a session is opened: kept, or every restart would take minutes
        **place,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(folder),
    }
    for kind, key in KINDS.items():  # allowed where the graph says so, never beyond it
        if kind in re.split(r"\W+", types):
            options[key] = "1"
    return [(PROVIDERS[wanted.name].registered, options), on_cuda]


def _plugged(provider: Provider, place: int) -> Any:
    """The device of a provider that comes as a library of its own, which is loaded once per process."""
    import onnxruntime

    brought = importlib.import_module(provider.plugin)
    if provider.registered not in {device.ep_name for device in onnxruntime.get_ep_devices()}:
        try:
            onnxruntime.register_execution_provider_library(provider.registered, brought.get_library_path())
        except onnx_format.ort_faults() as error:
            if "already registered" not in str(error).lower():
                raise _unloaded(provider, " ".join(str(error).split())[:300]) from None
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.registered]
    if place >= len(devices):
        raise _unloaded(provider, f"its library knows {len(devices)} devices here, device {place} was asked for")
    return devices[place]


def _preload() -> None:
    """Load the libraries of CUDA and cuDNN from packages of Python, where they are installed as such."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        with quiet.quiet():  # it prints which it did not find
            onnxruntime.preload_dlls()


def _unloaded(provider: Provider, reason: str) -> OptimizerError:
    return OptimizerError(
        f"ONNX Runtime could not load its {provider.title} provider: {reason}",
        "its libraries (CUDA, cuDNN, TensorRT) must be found and of the versions that it was built for: what ONNX "
        "Runtime printed names the missing one",
    )


def placed(name: str, events: Sequence[Mapping[str, Any]]) -> str:
    """Where the kernels of a profile ran, in words: `on CUDA; 3 of 40 kernels on the CPU (2 Shape, 1 Gather)`.

    Copies that the runtime put between devices are told apart from kernels.
    """
    seen = {event["args"]["node_index"]: event["args"] for event in events if event.get("name", "").endswith(KERNEL)}
    copies = sum(kernel["op_name"] in COPIES for kernel in seen.values())
    kernels = [kernel for kernel in seen.values() if kernel["op_name"] not in COPIES]
    parts = [f"on {PROVIDERS[name].title}"]
    for registered, title in ELSEWHERE.items():
        left = Counter(kernel["op_name"] for kernel in kernels if kernel.get("provider") == registered)
        if left and registered != PROVIDERS[name].registered:
            ops = ", ".join(f"{count} {op}" for op, count in left.most_common())
            parts.append(f"{left.total()} of {len(kernels)} kernels on {title} ({ops})")
    if copies:
        parts.append(f"{copies} {'copy' if copies == 1 else 'copies'} between devices")
    return "; ".join(parts)
