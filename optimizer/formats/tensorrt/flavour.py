"""The two libraries that speak TensorRT's API, and everything in which they differ for us.

TensorRT times kernels on the GPU that it builds for: it needs one, and what it times can be kept in a cache.
TensorRT-RTX compiles in two halves: ahead of time for named compute capabilities, on any machine; and on the GPU when
the engine is first run (Engine Compatibility and CPU-Only AOT, TensorRT-RTX documentation 1.7).
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from optimizer import cuda, machine
from optimizer.errors import OptimizerError


@dataclass(frozen=True)
class Flavour:
    """One library: how it is found, and what it can do."""

    name: str  # of the target and of the artifact format
    title: str
    module: str
    distributions: tuple[str, ...]  # that bring it, the one to recommend first
    install: str
    builds_anywhere: bool  # without a GPU
    oldest: int  # capability as major * 10 + minor
    capabilities: tuple[str, ...] = ()  # compute capabilities that can be named; empty: those of the GPU at hand
    usual: tuple[str, ...] = ()  # what an engine runs on when none is named

    def installed(self) -> str | None:
        """The distribution that is installed, or None."""
        return next((name for name in self.distributions if machine.version_of(name)), None)

    def tools(self) -> tuple[str, ...]:
        """The distributions whose version decides an engine: the installed one, else the one that should be."""
        return (self.installed() or self.distributions[0],)

    def version(self) -> str | None:
        """The installed version."""
        found = self.installed()
        return machine.version_of(found) if found else None


TENSORRT = Flavour(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    distributions=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    install="pip install 'optc[tensorrt]' (its libraries come from NVIDIA's own package index)",
    builds_anywhere=False,
    oldest=75,
)
RTX = Flavour(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    distributions=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    install="pip install 'optc[tensorrt-rtx]'",
    builds_anywhere=True,
    oldest=75,
    capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
    usual=("8.0", "8.6", "8.9", "12.0"),
)
FLAVOURS = {flavour.name: flavour for flavour in (TENSORRT, RTX)}


def library(flavour: Flavour) -> Any:
    """The module of a flavour. Raises OptimizerError when it is missing, or when its own libraries are."""
    try:
        return importlib.import_module(flavour.module)
    except ImportError as error:
        reason = " ".join(str(error).split())[:200]
        raise OptimizerError(f"{flavour.title} cannot be imported: {reason}", flavour.install) from None
    except OSError as error:  # the bindings load the libraries by hand
        reason = " ".join(str(error).split())[:200]
        raise OptimizerError(f"{flavour.title} is installed without its libraries: {reason}", flavour.install) from None


def absent(flavour: Flavour) -> str | None:
    """Why no engine can be built here and how to get there, or None."""
    if flavour.installed() is None:
        return f"{flavour.title} is not installed; {flavour.install}"
    return None if flavour.builds_anywhere else unrunnable(flavour)


def unrunnable(flavour: Flavour) -> str | None:
    """Why no engine can run on this machine, or None: driver, GPU, its compute capability, the way to its memory."""
    found = cuda.survey()
    if found.reason is not None:
        return f"{flavour.title} runs on an NVIDIA GPU: {found.reason}"
    gpu = found.gpus[0]
    if not supported(flavour, gpu.capability):
        known = f"those of its engines are {', '.join(flavour.capabilities)}" if flavour.capabilities else "too old"
        return f"{flavour.title} does not run on {gpu.name} (compute capability {gpu.capability}): {known}; {OTHER}"
    if machine.version_of(BINDINGS) is None:
        return f"{BINDINGS} is not installed, which moves data to the GPU; pip install {BINDINGS}"
    return None


BINDINGS = "cuda-bindings"
OTHER = "use another GPU, or the target onnxruntime with a CUDA provider"


def supported(flavour: Flavour, capability: str) -> bool:
    """Whether a GPU of this compute capability can run engines of a flavour at all."""
    if flavour.capabilities and order(capability) < (12, 0):
        return capability in flavour.capabilities
    return order(capability) >= divmod(flavour.oldest, 10)


# Compute capability from which on tensor cores have a type (CUDA Programming Guide, Compute Capabilities).
TYPED = {"bf16": "8.0", "fp8": "8.9"}


def order(capability: str) -> tuple[int, ...]:
    """A compute capability as numbers that can be compared."""
    return tuple(map(int, capability.split(".")))


def lacking(capability: str) -> tuple[str, ...]:
    """The types that GPUs of a compute capability do not have."""
    return tuple(kind for kind, first in TYPED.items() if order(capability) < order(first))


def built_for(flavour: Flavour) -> dict[str, str | None]:
    """What this machine adds to the ingredients: GPU and driver, where kernels are timed while an engine is built."""
    return {} if flavour.builds_anywhere else runs_on(0)


def runs_on(device: int) -> dict[str, str | None]:
    """GPU and driver; empty where there is no such GPU."""
    found = cuda.survey()
    if device >= len(found.gpus):
        return {}
    gpu = found.gpus[device]
    return {"gpu": gpu.name, "capability": gpu.capability, "driver": found.driver}
