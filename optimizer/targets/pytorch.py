"""pytorch: the module as the user wrote it, run eagerly on the CPU. The oracle, and the user's yardstick."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from optimizer import disk, machine
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
COMPILE: tuple[str, ...] = ()
SCHEME = QuantScheme(target="pytorch", format="torch", half=())


class Options(Strict):
    """How the module is run."""

    threads: int | None = Field(None, ge=1, description="threads that one operator may use; default: as measured")


def probe() -> str | None:
    """None when PyTorch is installed, else how to get it."""
    if machine.version_of("torch") is None:
        return "PyTorch is not installed; pip install 'optc[torch]'"
    return None


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
    """A session on the module; PyTorch's number of threads is set for the time that it is open."""
    import torch

    from optimizer.formats.torch import open_model

    before = torch.get_num_threads()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        yield _Eager(open_model(artifact.path))
    finally:
        torch.set_num_threads(before)


class _Eager:
    """The module's forward in inference mode."""

    def __init__(self, model: TorchModel) -> None:
        self._model = model
        self.signature: Signature = model.signature
        self.precision = f"{_dtypes(model)} (eager)"

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
