"""A teacher: any artifact that answers the batches that a student trains on, and what it said, kept on disk."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from optimizer import disk
from optimizer.errors import OptimizerError, unknown
from optimizer.formats import torch as torch_format
from optimizer.formats.torch import TorchModel
from optimizer.protocols import Context, Feeds, Session
from optimizer.training import devices, student
from optimizer.training.student import Outputs
from optimizer.training.values import Examples, TensorBatch
from optimizer.values import Signature

if TYPE_CHECKING:
    import torch

KEPT = 2 << 30  # bytes of a teacher's outputs that are kept
TOGETHER = 64  # examples that a teacher answers at once for keeping


class Teacher(Protocol):
    """Answers batches. `model` is there where it is a PyTorch module, whose inner layers can be read."""

    signature: Signature
    model: TorchModel | None

    def __call__(self, batch: TensorBatch) -> Outputs: ...


@contextlib.contextmanager
def opened(ctx: Context, name: str, device: torch.device) -> Iterator[Teacher]:
    """The artifact that the recipe calls `name`: a module on `device` in eval mode, else a session of its target."""
    artifact = ctx.artifacts[name]
    if artifact.format == "torch":
        yield _Module(torch_format.open_model(artifact.path), device)
        return
    if ctx.open is None:
        raise AssertionError("BUG: a step with another artifact was run without a way to open it")
    with ctx.open(name) as session:
        yield _Session(session)


class _Module:
    def __init__(self, model: TorchModel, device: torch.device) -> None:
        self.model: TorchModel | None = model
        self.signature = model.signature
        self._model = model
        model.module.to(device)
        model.module.requires_grad_(False)

    def __call__(self, batch: TensorBatch) -> Outputs:
        import torch

        with torch.no_grad():
            return student.outputs(self._model, batch)


class _Session:
    model: TorchModel | None = None

    def __init__(self, session: Session) -> None:
        self._session, self.signature = session, session.signature

    def __call__(self, batch: TensorBatch) -> Outputs:
        import torch

        feeds: Feeds = {spec.name: self._fed(batch, spec.name) for spec in self.signature.inputs}
        device = next(iter(batch.feeds.values())).device
        return {n: torch.from_numpy(np.ascontiguousarray(a)).to(device) for n, a in self._session(feeds).items()}

    def _fed(self, batch: TensorBatch, name: str) -> np.ndarray:
        if name not in batch.feeds:
            raise unknown("input", name, batch.feeds, "what the student is fed; the teacher takes it too")
        return torch_format.as_array(batch.feeds[name].cpu())


class Kept:
    """What a teacher says of every example, asked once, so that a killed training reads the same again."""

    def __init__(self, whole: Mapping[str, np.ndarray], places: Mapping[int, int], views: int) -> None:
        self._whole, self._places, self._views = whole, places, views

    def __call__(self, batch: TensorBatch) -> Outputs:
        import torch

        rows = [self._places[int(index)] for index in batch.indices]
        device = next(iter(batch.feeds.values())).device
        found = {}
        for name, array in self._whole.items():
            taken = np.asarray(array[rows])
            flat = taken.reshape(-1, *taken.shape[2:])
            found[name] = torch.from_numpy(flat).to(device)
        return found


def kept(
    ask: Callable[[TensorBatch], Outputs],
    examples: Examples,
    order: np.ndarray,
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Kept | None:
    """The outputs of `ask` for all examples, asked in `order`; they stay in `folder` once they are whole.

    None where answers have no fixed shape, or are too many to be kept.
    """
    from optimizer.training.feeder import in_order

    first, other = (next(in_order(examples, order[ends], 1, device)) for ends in (slice(1), slice(-1, None)))
    shapes = {n: _per_example(t, first.views) for n, t in ask(first).items()}
    if shapes != {n: _per_example(t, other.views) for n, t in ask(other).items()}:
        return None
    if sum(4 * int(np.prod(shape)) for shape in shapes.values()) * len(examples) > KEPT:
        return None
    with devices.first_alone(), disk.disk_errors(folder):
        whole = _files(folder, shapes, len(examples))
        indices = _asked(ask, examples, order, folder, device, whole, progress)
    return Kept(whole, {index: place for place, index in enumerate(indices)}, first.views)


def _per_example(tensor: torch.Tensor, views: int) -> tuple[int, ...]:
    """(views, ...) of one example's output; an output of no batch dimension has a shape that no two examples share."""
    return (views, *tensor.shape[1:]) if tensor.ndim and tensor.shape[0] == views else (-1,)


def _files(folder: Path, shapes: Mapping[str, tuple[int, ...]], count: int) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for number, (name, shape) in enumerate(shapes.items()):
        path = folder / f"teacher-{number}.bin"
        size = 4 * count * int(np.prod(shape))
        if not path.is_file() or path.stat().st_size != size:
            with path.open("wb") as stream:
                stream.truncate(size)
        found[name] = np.memmap(path, np.float32, "r+", shape=(count, *shape))
    return found


def _asked(
    ask: Callable[[TensorBatch], Outputs],
    examples: Examples,
    order: np.ndarray,
    folder: Path,
    device: torch.device,
    whole: Mapping[str, np.ndarray],
    progress: Callable[[int, int], None],
) -> list[int]:
    """Fill the files unless they are whole; the index of the example at each place."""
    from optimizer.training.feeder import in_order

    marker = folder / "teacher.json"
    with contextlib.suppress(OSError, ValueError):
        found: list[int] = json.loads(marker.read_text())
        if len(found) == len(examples):
            return found
    indices = np.empty(len(examples), np.int64)
    done = 0
    for batch in in_order(examples, order, TOGETHER, device):
        places = order[done : done + len(batch.indices)]
        indices[places] = batch.indices
        for name, tensor in ask(batch).items():
            array = whole[name]
            array[places] = torch_format.as_array(tensor.float().cpu()).reshape(len(places), *array.shape[1:])
        done += len(batch.indices)
        progress(done, len(examples))
    for array in whole.values():
        array.flush()  # type: ignore[attr-defined]  # a memmap
    disk.write_atomically(marker, json.dumps(indices.tolist()).encode())
    return [int(index) for index in indices]


def refuse_nan(found: Mapping[str, Any], name: str, where: str) -> None:
    """Raise OptimizerError where a teacher's answer is not finite: nothing can be learnt from it."""
    for output, tensor in found.items():
        if not bool(tensor.isfinite().all()):
            raise OptimizerError(
                f"{where}: the teacher '{name}' answers NaN or infinity in '{output}'", "check it first"
            )
