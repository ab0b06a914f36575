"""tensorrt: ONNX -> an engine of TensorRT 10 or 11, built on the GPU that it is for, precision as its graph says."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from optimizer import cuda
from optimizer.formats.tensorrt import flavour, scheme
from optimizer.formats.tensorrt.flavour import TENSORRT as FLAVOUR
from optimizer.formats.tensorrt.options import COMPILED, EngineOptions
from optimizer.protocols import Context, Session
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact

if TYPE_CHECKING:
    from optimizer.formats.tensorrt.preflight import Preflight

VERSION = 1
CONSUMES = ("onnx",)
PRODUCES = FLAVOUR.name
TOOLS = FLAVOUR.tools()
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = scheme.LIMIT
COMPILE = (*COMPILED, "hardware", "version_compatible")
SEARCH = ({"tf32": True}, {"cuda_graph": True})
SCHEME = scheme.of(FLAVOUR)
oracle, limit = scheme.oracle, scheme.limit


class Options(EngineOptions):
    """How an engine is built and run."""

    hardware: Literal["same", "same-compute-capability", "ampere+"] = Field(
        "same",
        description="on which GPUs it runs: this kind, those of its compute capability, Ampere and newer",
    )
    version_compatible: bool = Field(
        False, description="the engine also runs with later versions of the library, at some cost in speed"
    )


def probe() -> str | None:
    """None when engines can be built here, else what is missing and how to get it."""
    return flavour.absent(FLAVOUR)


def pending(options: Options) -> str | None:  # noqa: ARG001  # the protocol's signature
    """None when engines can be run here, else why measurements have to wait."""
    return flavour.unrunnable(FLAVOUR)


def built_for() -> dict[str, str | None]:
    """What of this machine decides the engine: its kernels are timed here."""
    return flavour.built_for(FLAVOUR)


def built_as(artifact: Artifact) -> str:
    """The types that the engine was built with, in words: all that can be said of one that has not run."""
    from optimizer.formats.tensorrt import layers

    return layers.told(artifact.path)


def preflight(file: Path) -> Preflight:
    """Every node of an ONNX file that would be refused, without building anything."""
    from optimizer.formats.tensorrt import preflight as checks

    return checks.look(FLAVOUR, file)


def schemed(options: Options) -> QuantScheme:
    """How graphs are quantized for the GPU that engines are built on."""
    found = cuda.survey().gpus[options.device : options.device + 1]
    return scheme.on(FLAVOUR, [gpu.capability for gpu in found])


def runs_on(options: Options) -> dict[str, str | None]:
    """What of this machine decides the numbers that an engine gives."""
    return flavour.runs_on(options.device)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:
    """Build the engine for this GPU."""
    from optimizer.formats.tensorrt import build

    build.compile(FLAVOUR, source, options, ctx, out, build.Reach((), options.hardware, options.version_compatible))


def open(artifact: Artifact, options: Options) -> AbstractContextManager[Session]:  # the protocol's name
    """A session on the engine, on the GPU `options.device`."""
    from optimizer.formats.tensorrt import session

    return session.opened(FLAVOUR, artifact, options)
