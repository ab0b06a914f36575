"""pytorch: the module as its author wrote it, eager or compiled, on the CPU or a GPU. The oracle, and the yardstick."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from optimizer import cuda, disk, machine
from optimizer.errors import OptimizerError, elsewhere
from optimizer.formats.tensorrt import flavour
from optimizer.protocols import Context, Feeds, Session
from optimizer.schema import Strict
from optimizer.scheme import QuantScheme
from optimizer.values import Artifact, Signature

if TYPE_CHECKING:
    import numpy as np

    from optimizer.formats.torch import TorchModel

VERSION = 1
CONSUMES = ("torch",)
PRODUCES = "torch"
TOOLS = ("torch",)
DATA: tuple[str, ...] = ()
SCHEMED = False
LIMIT = 0.0
COMPILE = ("device", "compile", "tf32")  # they change no file: what ran otherwise is compared anew
SCHEME = QuantScheme(target="pytorch", format="torch", half=())


class Options(Strict):
    """How the module is run."""

    threads: int | None = Field(None, ge=1, description="threads that one operator may use; default: as measured")
    device: Literal["cpu", "cuda"] = Field("cpu", description="what runs the module")
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = Field(
        None, description="torch.compile in this mode; default: eager"
    )
    tf32: bool = Field(
        False, description="device cuda: float32 products may round their factors to 10 bits, faster on recent GPUs"
    )


def probe() -> str | None:
    """None when PyTorch is installed, else how to get it."""
    if machine.version_of("torch") is None:
        return "PyTorch is not installed; pip install 'optc[torch]'"
    return None


def pending(options: Options) -> str | None:
    """None when the module can run here as the options say, else why it cannot and how to get there."""
    if options.device == "cpu":
        return None
    reason = cuda.survey().reason
    if reason is not None:
        return f"PyTorch on CUDA runs on an NVIDIA GPU: {reason}"
    version = machine.version_of("torch") or ""
    if version.endswith("+cpu"):
        return f"PyTorch {version} is built for CPUs; install PyTorch for CUDA (pytorch.org says how)"
    return None


def built_as(artifact: Artifact) -> str:
    """The types of the weights: all that can be said before it has run."""
    from optimizer.formats.torch import open_model

    return _dtypes(open_model(artifact.path))


def runs_on(options: Options) -> dict[str, str | None]:
    """What of this machine beside the CPU decides the numbers: nothing, or the GPU and its driver."""
    return {} if options.device == "cpu" else flavour.runs_on(0)


def away(source: Artifact, options: Options) -> float | None:  # noqa: ARG001  # the protocol's signature
    """How far outputs of other kernels may lie from the eager ones of the CPU; None where those run."""
    if options.device == "cuda":
        return 1e-2 if options.tf32 else 1e-3
    return 1e-4 if options.compile else None


def stale(path: Path, options: Options) -> bool:  # noqa: ARG001  # the protocol's signature
    """Whether the user's files that the stored module is rebuilt from have moved."""
    from optimizer.formats import torch as torch_format

    return torch_format.moved(path)


def run(source: Artifact, options: Options, ctx: Context, out: Path) -> None:  # noqa: ARG001  # the protocol's signature
    """Hand the artifact on: there is nothing to compile."""
    for file in source.path.iterdir():
        disk.link_or_copy(file, out / file.name)


@contextlib.contextmanager
def open(artifact: Artifact, options: Options) -> Iterator[Session]:  # the protocol's name
    """A session on the module; PyTorch's threads, and on CUDA its use of TF32, are set for the time that it is open."""
    import torch

    reason = pending(options)
    if reason:
        raise elsewhere("the module", reason)
    before = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        with _rounding(options.tf32) if options.device == "cuda" else contextlib.nullcontext():
            yield _Module(_model(artifact, options), options)
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _rounding(tf32: bool) -> Iterator[None]:
    """Whether products on CUDA may round to TF32, for the process and as long as the session is open.

    Not around each call: PyTorch knows the switch once per process, so of two callers in threads (`fork`) the one that
    ends first would take it from the other.
    """
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _model(artifact: Artifact, options: Options) -> TorchModel:
    from optimizer.formats.torch import open_model

    model = open_model(artifact.path)
    program = model.record.compiled
    if options.compile and program:
        raise OptimizerError(
            f"{model.record.origin} is {program}, which torch.compile does not take",
            "leave the option compile out, or give the module's code: model: {entry: file.py:callable, ...}",
        )
    if options.device != "cpu":
        model = model.on(options.device)
    return model.compiled(options.compile) if options.compile else model


class _Module:
    """The module's forward in inference mode. Times of a call hold the copies to and from a GPU."""

    def __init__(self, model: TorchModel, options: Options) -> None:
        self._model = model
        self.signature: Signature = model.signature
        how = f"torch.compile, {options.compile}" if options.compile else "eager"
        self.precision = f"{_dtypes(model)} ({how})" + (" on CUDA" if options.device == "cuda" else "")

    def __call__(self, feeds: Feeds) -> dict[str, np.ndarray]:
        return self._model(feeds)

    def fork(self) -> Session:
        """The module itself: inference mode belongs to a thread, and a forward that keeps no state may overlap."""
        return self


def _dtypes(model: TorchModel) -> str:
    """The floating-point types of the weights, the most common first."""
    counts: dict[str, int] = {}
    for parameter in model.module.parameters():
        if parameter.is_floating_point():
            name = str(parameter.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + parameter.numel()
    return "+".join(sorted(counts, key=lambda name: -counts[name])) or "float32"
